"""The atoms of a placement: how one table is divided, and one rank's part of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from model.embedding import row_types
from storage.errors import ReportedError

KINDS = ("table", "column", "row", "replicated")


class PlacementError(ReportedError, ValueError):
    """A placement that cannot be: it does not fit, or it is not described correctly.

    Attributes:
      table: index of the table that the error is about, or None.
      missing_bytes: bytes that the rank in question lacks, or None.
    """

    def __init__(
        self, message: str, table: int | None = None, missing_bytes: int | None = None
    ) -> None:
        super().__init__(message)
        self.table = table
        self.missing_bytes = missing_bytes


def byte_text(count: float) -> str:
    """Write bytes for people: `20.42 GB` (decimal units)."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if abs(count) >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


@dataclasses.dataclass(frozen=True)
class Assignment:
    """How one table is divided.

    Attributes:
      kind: `table` (whole on one rank), `column` (two halves of the embedding dimension on two
        ranks), `row` (id i on rank i mod N) or `replicated` (whole on every rank).
      ranks: the rank of a `table`, the two ranks of a `column`, else empty.
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
      rows: number of local rows; 0 where a row-wise table has fewer rows than ranks.
      row_offset: id of the local row 0.
      row_stride: distance between the ids of two neighbouring local rows (N if row-wise, else 1).
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
    """Return the bytes of `width` values of one row and of the optimizer state kept beside them.

    Args:
      width: columns held.
      dimension: D.
      optimizer_bytes_per_row: `RowOptimizer.bytes_per_row(D)`; a multiple of D is taken as state
        per column, of which `width` columns keep their part.
    """
    state = optimizer_bytes_per_row
    if state % dimension == 0:
        state = state * width // dimension
    return width * row_types.ROW_TYPES[row_types.DEFAULT] + state


def is_integer(value: Any) -> bool:
    """Tell whether a value read from a file is an integer (True and False are not)."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_sizes(vocab_sizes: Sequence[int], dimension: int, ranks: int) -> None:
    """Raise PlacementError unless all table sizes, D and N are positive integers."""
    if not vocab_sizes:
        raise PlacementError("there is no table to place: vocab_sizes is empty")
    for table, rows in enumerate(vocab_sizes):
        if not is_integer(rows) or rows < 1:
            raise PlacementError(
                f"table {table}: its size is {rows!r}, expected an integer of at least 1", table
            )
    for name, value in (("dimension", dimension), ("ranks", ranks)):
        if not is_integer(value) or value < 1:
            raise PlacementError(f"{name} is {value!r}, expected an integer of at least 1")


def check_assignment(table: int, assignment: Assignment, dimension: int, ranks: int) -> None:
    """Raise PlacementError, naming the table, unless the assignment is possible."""
    if assignment.kind not in KINDS:
        raise PlacementError(
            f"table {table}: kind is {assignment.kind!r}, expected one of {', '.join(KINDS)}",
            table,
        )
    expected = {"table": 1, "column": 2}.get(assignment.kind, 0)
    if len(assignment.ranks) != expected:
        raise PlacementError(
            f"table {table}: kind {assignment.kind!r} takes {expected} rank(s), found "
            f"{list(assignment.ranks)}",
            table,
        )
    for rank in assignment.ranks:
        if not is_integer(rank) or not 0 <= rank < ranks:
            raise PlacementError(
                f"table {table}: rank {rank!r} is not one of the {ranks} ranks 0 to {ranks - 1}",
                table,
            )
    if assignment.kind == "column":
        if len(set(assignment.ranks)) != 2:
            raise PlacementError(f"table {table}: both column halves are on one rank", table)
        if dimension % 2:
            raise PlacementError(
                f"table {table}: dimension {dimension} is odd and has no halves", table
            )
