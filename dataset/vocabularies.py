"""Vocabulary sizes (rows of each table): checks, parses, finds and compares them."""

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
#: Shape of a list of vocabulary sizes in a file.
Sizes = Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)]], msgspec.Meta(min_length=1)]


def check_sizes(sizes: Any, where: str, tables: int | None = None) -> list[int]:
    """Returns vocabulary sizes as a list of ints.

    Args:
        sizes: the value to check.
        where: its origin, for errors.
        tables: expected number of sizes; None for any.

    Raises:
        DatasetError: not a list of `tables` integers from 1 to `MAX_ROWS`.
    """
    if not isinstance(sizes, (list, tuple)) or not sizes:
        problem = f"vocabulary sizes: expected a list of at least one size, found {sizes!r:.80}"
        raise DatasetError(f"{where}: {problem}", found=sizes)
    for table, size in enumerate(sizes):
        if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= MAX_ROWS:
            raise DatasetError(
                f"{where}: vocabulary size of table {table}: expected an integer from 1 to "
                f"{MAX_ROWS}, found {size!r:.40}",
                table=table,
                found=size,
                bound=MAX_ROWS,
            )
    if tables is not None and len(sizes) != tables:
        raise DatasetError.mismatch(None, f"{where}: vocabulary sizes", tables, len(sizes))
    return list(sizes)


def parse_sizes(text: str, where: str) -> list[int]:
    """Returns the vocabulary sizes in `text`: a JSON list or comma-separated integers.

    Raises:
        DatasetError: the text, which comes from `where`, is neither.
    """
    text = text.strip()
    try:
        sizes = structured.parse_json(
            text if text.startswith("[") else f"[{text}]", where, list[int]
        )
    except structured.StructureError as error:
        problem = f"expected comma-separated integers, found {text!r:.80}"
        raise DatasetError(f"{where}: {problem}", found=text) from error
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
    """Returns a description of the difference, with the first table that differs; None if equal.

    Such as `table 3: the checkpoint has 1,245 rows, the data 1,300 (2 more tables differ)`.

    Args:
        ours: rows of each table, [T].
        theirs: rows of each table, [T'].
        our_name: name of `ours`, such as "the checkpoint".
        their_name: name of `theirs`, such as "the data".
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
