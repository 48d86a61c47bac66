"""Parse a plan's arguments: table sizes, layer widths, bytes."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, TypedDict

import msgspec

from model.embedding.optimizers import divisible_optimizers, find
from ops.bags import MAX_HOTNESS, MLPERF_HOTNESS
from planner.published_runs import VOCABULARIES
from storage import structured
from storage.errors import ReportedError

# Ids are int32.
_LARGEST_TABLE = 2**31 - 1
_HOTNESS = {"mlperf": MLPERF_HOTNESS}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([KMGT]?)(?:i?B)?\s*", re.IGNORECASE)
_Numbers = Annotated[list[int], msgspec.Meta(min_length=1)]
_Sizes = Annotated[
    list[Annotated[int, msgspec.Meta(ge=1, le=_LARGEST_TABLE)]], msgspec.Meta(min_length=1)
]


_Hotness = Annotated[
    list[Annotated[int, msgspec.Meta(ge=1, le=MAX_HOTNESS)]], msgspec.Meta(min_length=1)
]


class _Document(TypedDict):
    vocab_sizes: _Sizes


class _HotnessDocument(TypedDict):
    hotness_per_table: _Hotness


class ArgumentError(ReportedError, ValueError):
    """An argument of a plan is invalid."""


def read_vocab_sizes(text: str) -> tuple[int, ...]:
    """Parse table sizes: a name, a comma-separated list or a JSON file.

    Args:
      text: a name in `planner.published_runs.VOCABULARIES`; `39043,17289,…`; or the path of a
        JSON file with a list of sizes, or with one as `vocab_sizes` (metadata.json).

    Raises:
      ArgumentError: the text is none of these.
      StructureError: the file has another content.
    """
    return _read_list(text, "vocab_sizes", VOCABULARIES, _LARGEST_TABLE, _Sizes, _Document)


def read_hotness(name: str, text: str) -> tuple[int, ...]:
    """Parse ids per sample for each table: a name, a comma-separated list or a JSON file.

    Args:
      name: name of the flag, for errors.
      text: `mlperf`; `3,2,1,…`; or the path of a JSON file with a list, or with one as
        `hotness_per_table`.

    Raises:
      ArgumentError: the text is none of these.
      StructureError: the file has another content.
    """
    return _read_list(text, name, _HOTNESS, MAX_HOTNESS, _Hotness, _HotnessDocument)


def _read_list(text, flag, names, largest, shape, document_shape):
    if text in names:
        return names[text]
    if not re.search(r"[^\d\s,+.\[\]-]", text) and not os.path.exists(text):
        return tuple(_positive_integers(text, flag, largest))
    if not os.path.isfile(text):
        raise ArgumentError.of_flag(
            flag, text, f"expected a file, a comma-separated list or one of {', '.join(names)}"
        )
    try:
        document = structured.read_json(text, Any)
        if isinstance(document, dict):
            structured.check_shape(document, text, document_shape)
            (key,) = document_shape.__annotations__
            document = document[key]
        structured.check_shape(document, text, shape)
    except OSError as error:
        raise ArgumentError(
            f"{text}: cannot read the numbers of --{flag}: {error.strerror}", flag=flag, path=text
        ) from None
    return tuple(document)


def read_widths(name: str, text: str) -> tuple[int, ...]:
    """Parse layer widths such as `512,256,128`, the value of the flag `name`.

    Raises:
      ArgumentError: the text is not such a list.
    """
    return tuple(_positive_integers(text, name))


def read_bytes(name: str, text: str) -> int:
    """Parse a number of bytes such as `70GiB`, `800M` or `1073741824` (binary units).

    Args:
      name: name of the flag, for the error.
      text: its value.

    Raises:
      ArgumentError: the text is not a size.
    """
    match = _SIZE.fullmatch(text)
    if not match:
        raise ArgumentError.of_flag(name, text, "expected a size such as 70GiB or 800M")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _positive_integers(text: str, name: str, largest: int | None = None) -> list[int]:
    """Returns the integers of a comma-separated list, with or without brackets."""
    bare = text.strip()
    try:
        numbers = structured.parse_json(
            bare if bare.startswith("[") else f"[{bare}]", f"--{name}", _Numbers
        )
    except structured.StructureError:
        numbers = [0]
    if any(number > (largest or number) for number in numbers) or min(numbers) < 1:
        most = "" if largest is None else f" of at most {largest}"
        raise ArgumentError.of_flag(
            name, text, f"expected positive integers{most}, comma-separated", bound=largest
        )
    return numbers


def check_column_split(optimizer: str) -> None:
    """Raise ArgumentError if an optimizer's states cannot be split by column."""
    kind = find(optimizer)
    if kind.per_row_states:
        raise ArgumentError(
            f"--column_split: not possible with {kind.description}, which has one state per row; "
            f"leave it out, or use one of {', '.join(divisible_optimizers())}",
            flag="column_split",
        )
