"""The search behind `model.embedding.placement.plan`: largest first, most free memory."""

from __future__ import annotations

from collections.abc import Sequence

from model.embedding.shards import Assignment, PlacementError, byte_text, row_bytes


class _DoesNotFit(Exception):
    """A greedy pass found no rank for a table; `free` is None if no rank had a slot left."""

    def __init__(self, table: int, need: int, free: int | None):
        self.table, self.need, self.free = table, need, free


class Search:
    """Finds assignments; `assignments` maps table to `Assignment` when `run` returns."""

    def __init__(
        self,
        vocab_sizes: Sequence[int],
        dimension: int,
        ranks: int,
        bytes_per_rank: int | None,
        optimizer_bytes_per_row: int,
    ):
        self.sizes, self.ranks, self.budget = vocab_sizes, ranks, bytes_per_rank
        self.row_bytes = row_bytes(dimension, dimension, optimizer_bytes_per_row)
        # A half's bytes matter only where D is even.
        self.half_bytes = row_bytes(dimension // 2, dimension, optimizer_bytes_per_row)
        self.assignments: dict[int, Assignment] = {}
        self.used = [0] * ranks

    def replicate(self, table: int) -> None:
        """Put a table whole on every rank."""
        self.assignments[table] = Assignment("replicated")
        self.used = [used + self.sizes[table] * self.row_bytes for used in self.used]

    def run(self, policy: str, may_halve: bool) -> None:
        """Place the tables that are not placed yet, or raise PlacementError."""
        rest = [table for table in range(len(self.sizes)) if table not in self.assignments]
        rest.sort(key=lambda table: (-self.sizes[table], table))  # largest first
        if policy == "row":
            self._partition_rows(rest)
            self._check_row_wise(rest)
            return
        failure = self._table_wise(rest, may_halve)
        if failure is None:
            return
        if policy == "table":
            raise self._table_error(failure, rest)
        # The id exchange that row-wise placement needs is now due anyway, so every table
        # above the fair share is divided by row, which also balances memory and vectors sent.
        share = sum(self.sizes[table] for table in rest) / self.ranks
        row_wise = sum(self.sizes[table] > share for table in rest)
        self._partition_rows(rest[:row_wise])
        while self._table_wise(rest[row_wise:], may_halve) is not None:
            self._partition_rows(rest[row_wise : row_wise + 1])
            row_wise += 1
        self._check_row_wise(rest)

    def _partition_rows(self, tables: Sequence[int]) -> None:
        for table in tables:
            self.assignments[table] = Assignment("row")
            for rank in range(self.ranks):
                rows = (self.sizes[table] - rank + self.ranks - 1) // self.ranks
                self.used[rank] += rows * self.row_bytes

    def _table_wise(self, tables: Sequence[int], may_halve: bool) -> _DoesNotFit | None:
        """Place tables whole, or some of them halved; return None or the _DoesNotFit."""
        slots = 2 * -(-len(tables) // self.ranks)  # in halves of a table
        best, failure = None, None
        floor = -(-2 * len(tables) // self.ranks)
        for halved in range(len(tables) + 1 if may_halve else 1):
            limits = range(floor if halved else slots, slots + 1)
            for limit in limits:
                try:
                    found, used = self._greedy(tables, halved, limit)
                except _DoesNotFit as error:
                    failure = failure if failure is not None else error
                    continue
                if best is None or limit < best[0]:
                    best = (limit, found, used)
                break
            if best is not None and best[0] == floor:
                break
        if best is None:
            return failure
        self.assignments.update(best[1])
        self.used = best[2]
        return None

    def _greedy(
        self, tables: Sequence[int], halved: int, limit: int
    ) -> tuple[dict[int, Assignment], list[int]]:
        """Largest first, each on the rank with the most free memory that has a slot left."""
        used, slots = list(self.used), [0] * self.ranks
        found: dict[int, tuple[int, ...]] = {}
        pieces = [(self.sizes[t] * self.half_bytes, t, 1) for t in tables[:halved]] * 2
        pieces += [(self.sizes[t] * self.row_bytes, t, 2) for t in tables[halved:]]
        pieces.sort(key=lambda piece: (-piece[0], piece[1]))
        for need, table, width in pieces:
            taken = found.get(table, ())
            open_ranks = [
                rank
                for rank in range(self.ranks)
                if slots[rank] + width <= limit and rank not in taken
            ]
            rank = min(open_ranks, key=lambda r: (used[r], slots[r], r), default=None)
            if rank is None:
                raise _DoesNotFit(table, need, None)
            if self.budget is not None and used[rank] + need > self.budget:
                raise _DoesNotFit(table, need, self.budget - used[rank])
            used[rank] += need
            slots[rank] += width
            found[table] = (*taken, rank)
        kinds = {1: "table", 2: "column"}
        return {t: Assignment(kinds[len(r)], r) for t, r in found.items()}, used

    def _check_row_wise(self, rest: Sequence[int]) -> None:
        if self.budget is None or max(self.used) <= self.budget:
            return
        missing = max(self.used) - self.budget
        table = rest[0] if rest else max(self.assignments, key=lambda t: self.sizes[t])
        raise PlacementError(
            f"{len(self.sizes)} tables do not fit on {self.ranks} rank(s): even with every table "
            f"divided by row a rank needs {max(self.used):,} bytes ({byte_text(max(self.used))}) "
            f"and has {self.budget:,}: {missing:,} bytes ({byte_text(missing)}) are missing per "
            f"rank; the largest is table {table} with {self.sizes[table]:,} rows",
            table,
            missing,
        )

    def _table_error(self, failure: _DoesNotFit, tables: Sequence[int]) -> PlacementError:
        # The first failure is of unhalved tables, of which ceil(T/N) slots a rank always suffice.
        limit = -(-len(tables) // self.ranks)
        assert failure.free is not None
        missing = failure.need - failure.free
        return PlacementError(
            f"table {failure.table} ({self.sizes[failure.table]:,} rows) needs "
            f"{failure.need:,} bytes ({byte_text(failure.need)}), the rank with the most memory "
            f"among those with fewer than {limit} tables has {max(failure.free, 0):,}: "
            f"{missing:,} bytes ({byte_text(missing)}) are missing; give more ranks or more "
            "memory per rank, or --placement=auto, which divides large tables by row",
            failure.table,
            missing,
        )
