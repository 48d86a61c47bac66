"""The parts of a placement: how one table is divided, and one rank's shard of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from model.embedding import row_types
from storage.errors import ReportedError

KINDS = ("table", "column", "row", "replicated")


class PlacementError(ReportedError, ValueError):
    """A placement does not fit into memory, or its description is wrong.

    Attributes:
      missing_bytes: bytes that the rank in question lacks, or None.
    """

    def __init__(self, message: str, *, missing_bytes: int | None = None, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.missing_bytes = missing_bytes

    @classmethod
    def of_table(cls, table: int, problem: str, **fields: Any) -> PlacementError:
        """Returns the error "table N: problem"."""
        return cls(f"table {table}: {problem}", table=table, **fields)


def byte_text(count: float) -> str:
    """Return bytes as text in decimal units: `20.42 GB`."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if abs(count) >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


@dataclasses.dataclass(frozen=True)
class Assignment:
    """How one table is divided.

    Attributes:
      kind: `table` (on one rank), `column` (two halves of the embedding dimension on two ranks),
        `row` (id i on rank i mod N) or `replicated` (a copy on every rank).
      ranks: the rank of a `table`, the two ranks of a `column`, otherwise empty.
    """

    kind: str
    ranks: tuple = ()


@dataclasses.dataclass(frozen=True)
class Shard:
    """One rank's part of one table.

    The shard's local row j holds id `row_offset + j * row_stride`, columns
    [column_start, column_end), and is row `base_row + j` of the rank's fused variable of that
    width (ranks without column-wise shards have one fused variable, of width D).

    Attributes:
      table: index of the table.
      rank: the owner.
      kind: as in `Assignment`.
      rows: number of local rows; may be 0 if a row-wise table has fewer rows than ranks.
      row_offset: id of local row 0.
      row_stride: difference between the ids of consecutive local rows (N if row-wise, else 1).
      column_start: first column held.
      column_end: one past the last column held.
      base_row: first row of this shard in the rank's fused variable of this width.
    """

    table: int
    rank: int
    kind: str
    rows: int
    row_offset: int
    row_stride: int
    column_start: int
    column_end: int
    base_row: int

    @property
    def width(self) -> int:
        """Number of columns held."""
        return self.column_end - self.column_start


def row_bytes(width: int, dimension: int, optimizer_bytes_per_row: int) -> int:
    """Return the bytes of `width` values of one row and of their optimizer state.

    Args:
      width: columns held.
      dimension: D.
      optimizer_bytes_per_row: `RowOptimizer.bytes_per_row(D)`; a multiple of D is state per
        column, of which `width` columns have their part.
    """
    state = optimizer_bytes_per_row
    if state % dimension == 0:
        state = state * width // dimension
    return width * row_types.ROW_TYPES[row_types.DEFAULT] + state


def check_integer(name: str, value: Any, least: int = 1, table: int | None = None) -> None:
    """Raise PlacementError unless a value is an integer, not a bool, of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        problem = f"expected an integer of at least {least}, found {value!r}"
        raise PlacementError(f"{name}: {problem}", table=table, found=value, bound=least)


def check_sizes(vocab_sizes: Sequence[int], dimension: int, ranks: int) -> None:
    """Raise PlacementError unless all table sizes, D and N are positive integers."""
    if not vocab_sizes:
        raise PlacementError("vocab_sizes: expected at least one table, found none", found=0)
    for table, rows in enumerate(vocab_sizes):
        check_integer(f"table {table}: rows", rows, table=table)
    check_integer("dimension", dimension)
    check_integer("ranks", ranks)


def check_assignment(table: int, assignment: Assignment, dimension: int, ranks: int) -> None:
    """Raise PlacementError, naming the table, unless the assignment is possible."""
    kind, owners = assignment.kind, assignment.ranks
    if len(owners) != (expected := {"table": 1, "column": 2}.get(kind, 0)):
        raise PlacementError.of_table(
            table, f"expected {expected} ranks for kind {kind!r}, found {list(owners)}"
        )
    for rank in owners:
        if not 0 <= rank < ranks:
            raise PlacementError.of_table(
                table, f"expected a rank from 0 to {ranks - 1}, found {rank}", bound=ranks
            )
    if kind == "column" and len(set(owners)) != 2:
        raise PlacementError.of_table(
            table, f"expected its column halves on two ranks, found both on rank {owners[0]}"
        )
    if kind == "column" and dimension % 2:
        raise PlacementError.of_table(
            table, f"expected an even dimension to split by column, found {dimension}"
        )
