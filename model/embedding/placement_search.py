"""The search of `model.embedding.placement.plan`: largest table first, most free memory."""

from __future__ import annotations

from collections.abc import Sequence

from model.embedding.shards import Assignment, PlacementError, byte_text, row_bytes


class _DoesNotFit(Exception):
    """A greedy pass found no rank for a table; `free` is None if every rank was full."""

    def __init__(self, table: int, need: int, free: int | None):
        self.table, self.need, self.free = table, need, free


class Search:
    """Finds assignments; after `run`, `assignments` maps each table to its `Assignment`."""

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
        # Used only if D is even.
        self.half_bytes = row_bytes(dimension // 2, dimension, optimizer_bytes_per_row)
        self.assignments: dict[int, Assignment] = {}
        self.used = [0] * ranks

    def replicate(self, table: int) -> None:
        """Put a copy of a table on every rank."""
        self.assignments[table] = Assignment("replicated")
        self.used = [used + self.sizes[table] * self.row_bytes for used in self.used]

    def run(self, policy: str, may_halve: bool) -> None:
        """Place the remaining tables, or raise PlacementError."""
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
        # Any row-wise table requires the id exchange, so place every table above the fair share
        # row-wise: that also balances memory and vectors sent.
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
        """Place tables table-wise, some of them split by column; return the failure or None."""
        slots = 2 * -(-len(tables) // self.ranks)  # halves of tables per rank
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
        """Place each table, largest first, on the open rank with the most free memory."""
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
            f"{len(self.sizes)} tables do not fit on {self.ranks} rank{'s'[: self.ranks > 1]}: "
            f"even with every table sharded by rows, each rank needs {max(self.used):,} bytes "
            f"({byte_text(max(self.used))}) but has only {self.budget:,} bytes, which is "
            f"{missing:,} bytes ({byte_text(missing)}) too few; the largest is table {table} "
            f"({self.sizes[table]:,} rows)",
            missing_bytes=missing,
            flag="memory_per_rank",
            table=table,
            found=max(self.used),
            bound=self.budget,
        )

    def _table_error(self, failure: _DoesNotFit, tables: Sequence[int]) -> PlacementError:
        # The first failure is a pass without splits, where ceil(T/N) tables per rank suffice.
        limit = -(-len(tables) // self.ranks)
        assert failure.free is not None
        missing = failure.need - failure.free
        return PlacementError(
            f"table {failure.table} ({self.sizes[failure.table]:,} rows) needs "
            f"{failure.need:,} bytes ({byte_text(failure.need)}), but the emptiest rank with "
            f"fewer than {limit} tables has only {max(failure.free, 0):,} bytes "
            f"({missing:,} bytes or {byte_text(missing)} too few); use more ranks, more "
            "memory per rank, or --placement=auto, which places large tables row-wise",
            missing_bytes=missing,
            flag="placement",
            table=failure.table,
            found=failure.need,
            bound=max(failure.free, 0),
        )
