"""Vocabulary sizes, the rows of each table: checked, parsed, found beside data, compared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from dataset import files
from dataset.errors import DatasetError
from storage import structured

FILE_NAME = "vocab_sizes.json"
#: Largest number of rows that an int32 id can address.
MAX_ROWS = 2**31 - 1
#: The shape of such a list in a file.
Sizes = Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)]], msgspec.Meta(min_length=1)]


def check_sizes(sizes: Any, where: str, tables: int | None = None) -> list[int]:
    """Returns vocabulary sizes as a list of ints.

    Raises:
        DatasetError: not a list of positive integers that int32 ids can address, or not `tables`
            of them.
    """
    if not isinstance(sizes, (list, tuple)) or not sizes:
        raise DatasetError(
            f"{where}: vocabulary sizes must be a list of at least one, found {sizes!r:.80}"
        )
    for table, size in enumerate(sizes):
        if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= MAX_ROWS:
            raise DatasetError(
                f"{where}: vocabulary size of table {table} must be an integer from 1 to "
                f"{MAX_ROWS}, found {size!r:.40}"
            )
    if tables is not None and len(sizes) != tables:
        raise DatasetError(
            f"{where}: expected {tables} vocabulary sizes, one per table, found {len(sizes)}"
        )
    return list(sizes)


def parse_sizes(text: str, where: str) -> list[int]:
    """Returns the vocabulary sizes in `text`: a JSON list, or integers with commas between."""
    text = text.strip()
    try:
        sizes = structured.parse_json(
            text if text.startswith("[") else f"[{text}]", where, list[int]
        )
    except structured.StructureError as error:
        raise DatasetError(
            f"{where}: expected integers with commas between, found {text!r:.80}"
        ) from error
    return check_sizes(sizes, where)


def find_sizes(*folders: str) -> list[int] | None:
    """Returns the sizes in the first vocab_sizes.json found in `folders`, or None."""
    for folder in folders:
        path = os.path.join(folder, FILE_NAME)
        if files.exists(path):
            return files.read_json(path, Sizes)
    return None


def difference(
    ours: Sequence[int], theirs: Sequence[int], our_name: str, their_name: str
) -> str | None:
    """Returns what differs, naming the first table that does, or None where nothing does.

    `table 3: the checkpoint has 1,245 rows, the data 1,300 (2 more tables differ)`.

    Args:
        ours: rows of each table, [T].
        theirs: rows of each table, [T'].
        our_name: what `ours` belongs to, such as "the checkpoint".
        their_name: what `theirs` belongs to, such as "the data".
    """
    ours, theirs = list(ours), list(theirs)
    if ours == theirs:
        return None
    parts = []
    if len(ours) != len(theirs):
        parts.append(f"{our_name} has {len(ours)} tables, {their_name} {len(theirs)}")
    wrong = [table for table, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]]
    if wrong:
        table, more = wrong[0], len(wrong) - 1
        line = f"table {table}: {our_name} has {ours[table]:,} rows, {their_name} {theirs[table]:,}"
        if more:
            line += f" ({more} more table{'s differ' if more > 1 else ' differs'})"
        parts.append(line)
    if sorted(ours) == sorted(theirs):
        parts.append("the sizes are the same in another order")
    return "; ".join(parts)
