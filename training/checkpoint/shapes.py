"""The fields of a checkpoint's manifest and of its ranks' notes: types and ranges."""

from typing import Annotated, Any, Literal, Optional, TypedDict, Union

import msgspec

# Of an array, of a table, of a step.
_MOST = 2**53
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
_AtLeastOne = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
# A file in the checkpoint's folder or below it.
_File = Annotated[
    str, msgspec.Meta(pattern=r"\A(?!/)(?!(.*/)?\.\.?(/|\Z))[^\0\n]+\Z", max_length=4096)
]
_Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
# Variables have a number, which gives their order: "03.bias".
_Numbered = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,9}\.")]


class Array(TypedDict):
    """A .npy file."""

    file: _File
    shape: Annotated[list[_Count], msgspec.Meta(max_length=8)]
    dtype: Literal["float16", "float32", "float64", "int32", "int64", "uint64"]


class Shard(Array):
    """A .npy file of some rows of a table, or of an optimizer state of them."""

    dtype: Literal["float32"]
    table: _Count
    state: str
    row_offset: _Count
    row_stride: _AtLeastOne
    rows: _Count
    column_start: _Count
    column_end: _AtLeastOne


class _Evaluation(TypedDict):
    step: _Count
    auc: Optional[Annotated[float, msgspec.Meta(ge=0, le=1)]]
    log_loss: Optional[float]
    samples: _Count
    seconds: float


class _Flags(TypedDict, total=False):
    ablation: str
    bottom_mlp: str
    embedding_dim: _AtLeastOne
    global_batch_size: _AtLeastOne
    interaction: str
    loss_scale: str
    top_mlp: str


class _Data(TypedDict, total=False):
    dense_features: _Count
    dense_transform: Optional[str]
    applied_transform: Optional[str]
    effective_transform: Optional[str]


class Manifest(TypedDict):
    """`manifest.json`, without its format and version."""

    step: _Count
    epoch: _Count
    ranks: _AtLeastOne
    vocab_sizes: Annotated[list[_AtLeastOne], msgspec.Meta(min_length=1)]
    embedding_dim: _AtLeastOne
    dense: dict[_Numbered, Array]
    optimizer: dict[_Numbered, Array]
    loss_scale: dict[str, Array]
    tables: list[Shard]
    evaluations: list[_Evaluation]
    flags: _Flags
    data: _Data
    versions: dict[str, Union[str, int, float, None]]


class Header(TypedDict, total=False):
    """The fields that identify a JSON file as a manifest, and its version."""

    format: Any
    version: Any


class Failure(TypedDict):
    """The note of a rank that could not write its part."""

    failure: str


class Note(TypedDict):
    """The note of a rank that has written its part."""

    digests: dict[_File, _Digest]
    tables: list[Shard]
    named: dict[Literal["dense", "optimizer", "loss_scale"], dict[str, Array]]
    bytes: _Count
