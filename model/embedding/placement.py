"""Decide which rank holds which part of which embedding table.

Pure Python: computing, reading, writing and checking a placement needs neither TensorFlow nor
NumPy. A table is placed table-wise, column-wise (two halves), row-wise (id i on rank i mod N as
local row i div N, the map of SparseOperationKit 2) or replicated. docs/placement.md describes the
choices of `auto`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Literal

from model.embedding.optimizers import RowOptimizer, divisible_optimizers, find
from model.embedding.placement_search import Search
from model.embedding.shards import (
    KINDS,
    Assignment,
    PlacementError,
    Shard,
    byte_text,
    check_assignment,
    check_integer,
    check_sizes,
    row_bytes,
)

POLICIES = ("auto", "table", "row")


@dataclasses.dataclass(frozen=True)
class Placement:
    """The placement of T tables of dimension D on N ranks.

    Attributes:
      vocab_sizes: rows of each table.
      dimension: D.
      ranks: N.
      assignments: one `Assignment` per table.
      optimizer_bytes_per_row: optimizer state of a row of D values (`RowOptimizer.bytes_per_row`).
        A multiple of D is state per value, which a column-wise table splits in halves; anything
        else is state per row.
      bytes_per_rank: memory for tables and their optimizer state on one rank, or None.

    Raises:
      PlacementError: if a value is out of range or a rank holds more than `bytes_per_rank`.
    """

    vocab_sizes: tuple[int, ...]
    dimension: int
    ranks: int
    assignments: tuple[Assignment, ...]
    optimizer_bytes_per_row: int = 0
    bytes_per_rank: int | None = None

    def __post_init__(self) -> None:
        check_sizes(self.vocab_sizes, self.dimension, self.ranks)
        if len(self.assignments) != len(self.vocab_sizes):
            raise PlacementError(
                f"expected {len(self.vocab_sizes)} assignments, one per table, found "
                f"{len(self.assignments)}"
            )
        for table, assignment in enumerate(self.assignments):
            check_assignment(table, assignment, self.dimension, self.ranks)
        if self.bytes_per_rank is not None:
            self._check_budget(self.bytes_per_rank)

    @functools.cached_property
    def shards(self) -> tuple[Shard, ...]:
        """All shards, ordered by rank, then kind (`KINDS`' order), table and column."""
        parts = [part for table in range(len(self.assignments)) for part in self._parts(table)]
        parts.sort(key=lambda s: (s.rank, KINDS.index(s.kind), s.table, s.column_start))
        next_row = {}
        shards = []
        for part in parts:
            base = next_row.get((part.rank, part.width), 0)
            shards.append(dataclasses.replace(part, base_row=base))
            next_row[part.rank, part.width] = base + part.rows
        return tuple(shards)

    @functools.cached_property
    def _shards_by_rank(self) -> dict[int, tuple[Shard, ...]]:
        groups = itertools.groupby(self.shards, key=lambda shard: shard.rank)
        return {rank: tuple(group) for rank, group in groups}

    def shards_of(self, rank: int) -> tuple[Shard, ...]:
        """Return the shards of one rank, in the order of its fused variable."""
        return self._shards_by_rank.get(rank, ())

    def shards_of_table(self, table: int) -> tuple[Shard, ...]:
        """Return the shards of one table, by rank."""
        return tuple(shard for shard in self.shards if shard.table == table)

    def tables_of(self, rank: int) -> tuple[int, ...]:
        """Return the indices of the table-wise tables of one rank, ascending."""
        return tuple(s.table for s in self.shards_of(rank) if s.kind == "table")

    def _tables_of_kind(self, kind: str) -> tuple[int, ...]:
        return tuple(t for t, a in enumerate(self.assignments) if a.kind == kind)

    @property
    def table_wise_tables(self) -> tuple[int, ...]:
        """Indices of tables that are on one rank."""
        return self._tables_of_kind("table")

    @property
    def row_wise_tables(self) -> tuple[int, ...]:
        """Indices of tables whose rows are partitioned over all ranks."""
        return self._tables_of_kind("row")

    @property
    def column_wise_tables(self) -> tuple[int, ...]:
        """Indices of tables whose two halves are on two ranks."""
        return self._tables_of_kind("column")

    @property
    def replicated_tables(self) -> tuple[int, ...]:
        """Indices of tables of which every rank has a copy."""
        return self._tables_of_kind("replicated")

    def rows_of(self, rank: int, width: int | None = None) -> int:
        """Return the rows of a rank's fused variable of the given width (default D)."""
        width = self.dimension if width is None else width
        return sum(s.rows for s in self.shards_of(rank) if s.width == width)

    def columns_of(self, rank: int) -> int:
        """Return the columns that a rank looks up per sample in its table- and column-wise shards.

        Without column-wise tables this is D times the number of its tables.
        """
        return sum(s.width for s in self.shards_of(rank) if s.kind in ("table", "column"))

    def shard_bytes(self, shard: Shard) -> int:
        """Return the bytes of a shard's rows and of their optimizer state."""
        return shard.rows * row_bytes(shard.width, self.dimension, self.optimizer_bytes_per_row)

    def bytes_of(self, rank: int) -> int:
        """Return the bytes of a rank's tables and of their optimizer state."""
        return sum(self.shard_bytes(s) for s in self.shards_of(rank))

    def describe(self) -> str:
        """Return a table as text, one line per rank."""
        lines = [
            f"{'rank':>5}  {'bytes':>10}  {'rows':>13}  shards (table, r = row-wise, c = column)"
        ]
        for rank in range(self.ranks):
            shards = self.shards_of(rank)
            rows = sum(s.rows for s in shards)
            lines.append(
                f"{rank:>5}  {byte_text(self.bytes_of(rank)):>10}  {rows:>13,}  "
                + (" ".join(_shard_text(s) for s in shards) or "none")
            )
        return "\n".join(lines)

    def _parts(self, table: int) -> list[Shard]:
        rows, width, size = self.vocab_sizes[table], self.dimension, self.ranks
        assignment = self.assignments[table]

        def part(rank, count, offset=0, stride=1, start=0, end=width):
            kind = assignment.kind
            return Shard(table, rank, kind, count, offset, stride, start, end, base_row=0)

        if assignment.kind == "table":
            return [part(assignment.ranks[0], rows)]
        if assignment.kind == "column":
            first, second = assignment.ranks
            half = width // 2
            return [part(first, rows, end=half), part(second, rows, start=half)]
        if assignment.kind == "row":  # rank r holds ids r, r + N, r + 2N, ...
            return [part(r, (rows - r + size - 1) // size, r, size) for r in range(size)]
        return [part(r, rows) for r in range(size)]

    def _check_budget(self, budget: int) -> None:
        for rank in range(self.ranks):
            missing = self.bytes_of(rank) - budget
            if missing > 0:
                largest = max(self.shards_of(rank), key=self.shard_bytes)
                raise PlacementError(
                    f"rank {rank}: its tables need {self.bytes_of(rank):,} bytes, but it has "
                    f"only {budget:,} bytes ({missing:,} bytes too few); its largest shard "
                    f"({self.shard_bytes(largest):,} bytes) belongs to table {largest.table}",
                    missing_bytes=missing,
                    flag="placement",
                    table=largest.table,
                    found=self.bytes_of(rank),
                    bound=budget,
                )


def plan(
    vocab_sizes: Sequence[int],
    dimension: int,
    ranks: int,
    *,
    policy: str = "auto",
    bytes_per_rank: int | None = None,
    optimizer_bytes_per_row: int = 0,
    replicate_below_rows: int = 0,
    column_split: Literal["auto", False] = False,
) -> Placement:
    """Place T tables of dimension D on N ranks. Deterministic.

    Args:
      vocab_sizes: rows of each of the T tables.
      dimension: D.
      ranks: N.
      policy: `table`: every table on one rank, largest table first, each on the rank with the most
        free memory, at most ceil(T/N) tables per rank. `row`: every table over all ranks. `auto`:
        `table` if that fits; otherwise row-wise for the tables larger than a rank's fair share (1/N
        of all bytes) and, largest first, for as many others as necessary to fit.
      bytes_per_rank: memory for tables and their optimizer state on one rank; None: unlimited.
      optimizer_bytes_per_row: see `Placement`.
      replicate_below_rows: replicate tables with fewer rows than this on every rank.
      column_split: `auto` splits tables by column if that lowers the number of columns that the
        busiest rank looks up and sends, or if a complete table does not fit; False never.

    Raises:
      PlacementError: an argument is out of range, or the tables do not fit; the latter has `table`
        and `missing_bytes`.
    """
    vocab_sizes = tuple(vocab_sizes)
    check_sizes(vocab_sizes, dimension, ranks)
    if policy not in POLICIES:
        raise PlacementError(f"policy: expected one of {', '.join(POLICIES)}, found {policy!r}")
    if bytes_per_rank is not None:
        check_integer("bytes_per_rank", bytes_per_rank, 0)
    check_integer("optimizer_bytes_per_row", optimizer_bytes_per_row, 0)
    check_integer("replicate_below_rows", replicate_below_rows, 0)
    search = Search(vocab_sizes, dimension, ranks, bytes_per_rank, optimizer_bytes_per_row)
    for table, rows in enumerate(vocab_sizes):
        if rows < replicate_below_rows:
            search.replicate(table)
    search.run(policy, column_split == "auto" and dimension % 2 == 0 and ranks > 1)
    return Placement(
        vocab_sizes=vocab_sizes,
        dimension=dimension,
        ranks=ranks,
        assignments=tuple(search.assignments[table] for table in range(len(vocab_sizes))),
        optimizer_bytes_per_row=optimizer_bytes_per_row,
        bytes_per_rank=bytes_per_rank,
    )


def check_optimizer(
    placement: Placement, optimizer: str | RowOptimizer, path: str | None = None
) -> None:
    """Raise PlacementError if an optimizer's states cannot be split like the tables.

    Args:
      placement: a `Placement`.
      optimizer: a name in `model.embedding.optimizers.OPTIMIZERS`, or a `RowOptimizer`.
      path: the placement's file, for the error.
    """
    kind = find(optimizer)
    if kind.per_row_states and placement.column_wise_tables:
        table = placement.column_wise_tables[0]
        raise PlacementError(
            f"{path or 'placement'}: table {table} is split by column, but {kind.description} has "
            "one state per row; place the table with kind 'table' or 'row', or use one of "
            f"the optimizers {', '.join(divisible_optimizers())}",
            flag="placement",
            path=path,
            table=table,
        )


def _shard_text(shard: Shard) -> str:
    suffix = {"table": "", "row": "r", "replicated": "*"}.get(shard.kind)
    if suffix is None:
        suffix = f"c[{shard.column_start}:{shard.column_end}]"
    return f"{shard.table}{suffix}"
