"""Types and ranges of the fields that the report reads from journals and results.

Other fields are allowed; docs/journal.md lists all that a run writes.
"""

from typing import Annotated, Any, Optional, TypedDict

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_AtLeastOne = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
# Seconds, bytes, rates.
_Amount = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
# The range of float32. Null stands for NaN and infinities.
_Number = Annotated[float, msgspec.Meta(ge=-3.5e38, le=3.5e38)]
_Score = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Event(TypedDict):
    """The field that every event has."""

    event: str


class _Timed(TypedDict, total=False):
    time: _Amount


class _NeededFlags(TypedDict):
    global_batch_size: _AtLeastOne


class _Flags(_NeededFlags, total=False):
    amp: bool
    amp_dtype: str
    bottom_mlp: str
    checkpoint_dir: Optional[str]
    embedding_dim: Count
    interaction: str
    top_mlp: str


class _Bags(TypedDict):
    hotness: list[_AtLeastOne]


class _Data(TypedDict, total=False):
    bags: Optional[_Bags]
    layout: Optional[str]
    test_samples: Optional[Count]
    train_samples: Optional[Count]
    vocab_sizes: Optional[list[Count]]


class _NeededConfig(_Timed):
    flags: _Flags
    versions: dict[str, Any]
    data: _Data
    ranks: _AtLeastOne
    steps: Count


class _Config(_NeededConfig, total=False):
    resumed_from_step: Optional[Count]
    vocab_sizes: Optional[list[Count]]


class _Step(TypedDict):
    time: _Amount
    step: Count
    loss: Optional[_Number]
    learning_rate: _Number
    samples_per_second: _Amount


class _Evaluation(_Timed):
    step: Count
    auc: Optional[_Score]
    log_loss: Optional[_Number]
    samples: Count
    seconds: _Amount


class _Checkpoint(_Timed):
    step: Count
    path: str
    bytes: Count
    seconds: _Amount
    pause_seconds: _Amount


class _Memory(_Timed):
    step: Count
    peak_resident_bytes: Count
    peak_gpu_bytes: Optional[Count]


class _Phase(TypedDict):
    name: str
    milliseconds: _Amount


class _Breakdown(_Timed):
    phases: list[_Phase]
    step_milliseconds: _Amount
    whole_milliseconds: _Amount


class _Message(_Timed):
    text: str


class _NeededResult(_Timed):
    stopped_by: str
    steps: Count


class Result(_NeededResult, total=False):
    """`result.json` and the "end" event."""

    attainable_auc: Optional[_Score]
    evaluating_seconds: Optional[_Amount]
    samples_per_second: Optional[_Amount]
    total_seconds: Optional[_Amount]
    training_seconds: Optional[_Amount]


EVENTS = {
    "breakdown": _Breakdown,
    "checkpoint": _Checkpoint,
    "config": _Config,
    "end": Result,
    "evaluation": _Evaluation,
    "memory": _Memory,
    "message": _Message,
    "step": _Step,
}
