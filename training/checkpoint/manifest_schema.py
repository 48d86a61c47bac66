"""Types and ranges of the fields of a checkpoint's manifest and completion records."""

from typing import Annotated, Any, Literal, Optional, TypedDict, Union

import msgspec

# The largest integer that every JSON reader represents exactly.
_MAX = 2**53
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MAX)]
_AtLeastOne = Annotated[int, msgspec.Meta(ge=1, le=_MAX)]
# A relative path without "." and "..".
_File = Annotated[
    str, msgspec.Meta(pattern=r"\A(?!/)(?!(.*/)?\.\.?(/|\Z))[^\0\n]+\Z", max_length=4096)
]
_Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
# A variable's number, which gives the order, and its name: "03.bias".
_Numbered = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,9}\.")]


class Array(TypedDict):
    """A .npy file."""

    file: _File
    shape: Annotated[list[_Count], msgspec.Meta(max_length=8)]
    dtype: Literal["float16", "float32", "float64", "int32", "int64", "uint64"]


class Shard(Array):
    """A .npy file with some rows of a table, or of one of their optimizer states."""

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
    cross_layers: _AtLeastOne
    cross_rank: _Count
    embedding_dim: _AtLeastOne
    global_batch_size: _AtLeastOne
    interaction: str
    loss_scale: str
    top_mlp: str


class _Bags(TypedDict):
    hotness: Annotated[list[_AtLeastOne], msgspec.Meta(min_length=1)]
    pooling: list[Literal["sum", "mean"]]
    variable: list[bool]


class _Data(TypedDict, total=False):
    bags: _Bags
    dense_features: _Count
    dense_transform: Optional[str]
    applied_transform: Optional[str]
    effective_transform: Optional[str]


class Manifest(TypedDict):
    """`manifest.json`, except its format and version."""

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
    """The fields that identify a JSON file as a manifest of a version."""

    format: Any
    version: Any


class Failure(TypedDict):
    """The completion record of a rank that failed to write its part."""

    failure: str


class Done(TypedDict):
    """The completion record of a rank that has written its part."""

    digests: dict[_File, _Digest]
    tables: list[Shard]
    named: dict[Literal["dense", "optimizer", "loss_scale"], dict[str, Array]]
    bytes: _Count
