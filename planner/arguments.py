"""Parse a plan's arguments: table sizes, layer widths, bytes."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, TypedDict

import msgspec

from model.embedding.optimizers import divisible_optimizers, find
from planner.published_runs import VOCABULARIES
from storage import structured
from storage.errors import ReportedError

# Ids are int32.
_LARGEST_TABLE = 2**31 - 1
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([KMGT]?)(?:i?B)?\s*", re.IGNORECASE)
_Numbers = Annotated[list[int], msgspec.Meta(min_length=1)]
_Sizes = Annotated[
    list[Annotated[int, msgspec.Meta(ge=1, le=_LARGEST_TABLE)]], msgspec.Meta(min_length=1)
]


class _Document(TypedDict):
    vocab_sizes: _Sizes


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
    if text in VOCABULARIES:
        return VOCABULARIES[text]
    if not re.search(r"[^\d\s,+.\[\]-]", text) and not os.path.exists(text):
        return tuple(_positive_integers(text, "vocab_sizes", _LARGEST_TABLE))
    if not os.path.isfile(text):
        known = ", ".join(VOCABULARIES)
        raise ArgumentError.of_flag(
            "vocab_sizes", text, f"expected a file, a comma-separated list or one of {known}"
        )
    try:
        document = structured.read_json(text, Any)
        if isinstance(document, dict):
            structured.check_shape(document, text, _Document)
            document = document["vocab_sizes"]
        structured.check_shape(document, text, _Sizes)
    except OSError as error:
        raise ArgumentError(
            f"{text}: cannot read table sizes: {error.strerror}", flag="vocab_sizes", path=text
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
