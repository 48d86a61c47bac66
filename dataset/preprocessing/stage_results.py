"""Types of the stages' results, which the journal returns to a later run."""

from __future__ import annotations

from typing import Annotated, Optional, TypedDict

import msgspec

from dataset.preprocessing.columns import CATEGORICAL, DENSE

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Crc32 = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
_OfCategorical = msgspec.Meta(min_length=CATEGORICAL, max_length=CATEGORICAL)
_OfDense = msgspec.Meta(min_length=DENSE, max_length=DENSE)
#: Python 3.9 cannot evaluate `int | None`.
_Extreme = Optional[int]
_Path = Optional[str]


class _Part(TypedDict):
    number: _Count
    path: str
    rows: _Count
    bytes: _Count
    crc32: _Crc32


class _Dense(TypedDict):
    missing: Annotated[list[_Count], _OfDense]
    negative: Annotated[list[_Count], _OfDense]
    least: Annotated[list[_Extreme], _OfDense]
    greatest: Annotated[list[_Extreme], _OfDense]


class ParsedUnit(TypedDict):
    """Result of `parsing.parse_unit`."""

    parts: list[_Part]
    rejects_path: _Path
    lines: _Count
    rows: _Count
    rejects: _Count
    missing: Annotated[list[_Count], _OfCategorical]
    dense: _Dense
    byte_order_mark: bool
    unterminated: bool


class ColumnSummary(TypedDict):
    """Result of `counting.summary`."""

    vocab_size: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    distinct: _Count
    rare_values: _Count
    rare_samples: _Count
    most_frequent: list[tuple[str, _Count]]


class MappedPart(TypedDict):
    """Result of `MapTask.result`."""

    crc32: list[_Crc32]
    without_id: Annotated[list[_Count], _OfCategorical]
