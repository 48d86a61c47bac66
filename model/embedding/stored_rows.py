"""A rank's rows and optimizer states as a checkpoint sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Callable

import numpy as np
import tensorflow as tf

from model.embedding.shards import Shard
from model.embedding.tables import FusedTables

# Rows of a shard that are read or written at once where no snapshot is taken.
_PIECE_BYTES = 32 << 20


@dataclasses.dataclass(frozen=True)
class StoredRows:
    """One state of one shard of this rank: the rows themselves or an optimizer's state of them.

    Attributes:
        shard: whose rows.
        state: "table", or the name of an optimizer's state.
        shape: (rows, columns), or (rows,) of a state with one value a row.
        dtype: of the values.
        read: function (begin, count) -> array of the shard's rows [begin, begin + count).
        write: function (begin, values) that overwrites them.
    """

    shard: Shard
    state: str
    shape: tuple[int, ...]
    dtype: tf.DType
    read: Callable[[int, int], np.ndarray]
    write: Callable[[int, np.ndarray], None]

    @property
    def name(self) -> str:
        """The file's name without its ending, unique among all ranks."""
        kind = "" if self.state == "table" else f".{self.state}"
        return f"table_{self.shard.table:02d}{kind}.rank_{self.shard.rank}"

    @property
    def description(self) -> dict:
        """The manifest's entry without file, shape and dtype."""
        names = ("table", "row_offset", "row_stride", "rows", "column_start", "column_end")
        return {"state": self.state, **{name: getattr(self.shard, name) for name in names}}

    @property
    def bytes(self) -> int:
        """Bytes of its rows."""
        return self.dtype.size * int(np.prod(self.shape, dtype=np.int64))

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yields (begin, count) of pieces of bounded size."""
        rows = self.shape[0]
        step = max(1, _PIECE_BYTES * max(1, rows) // max(1, self.bytes))
        for begin in range(0, rows, step):
            yield begin, min(step, rows - begin)

    def pieces(self) -> Iterator[dict[str, np.ndarray]]:
        """Yields {state: values} of consecutive rows."""
        for begin, count in self.ranges():
            yield {self.state: self.read(begin, count)}


@dataclasses.dataclass(frozen=True)
class StoredTables:
    """All rows of one rank.

    Attributes:
        tracked: the variable whose row numbers `Embedding.touched_rows` returns, so that it can be
            read while training changes it; None where this rank has none.
        tracked_shards: [(number of the shard in `tracked`, its `StoredRows`)], in order of rows.
        untracked: rows that can be read only while training waits.
        replicated: rows that every rank holds.
    """

    tracked: FusedTables | None = None
    tracked_shards: list[tuple[int, list[StoredRows]]] = dataclasses.field(default_factory=list)
    untracked: list[StoredRows] = dataclasses.field(default_factory=list)
    replicated: list[StoredRows] = dataclasses.field(default_factory=list)

    @property
    def all(self) -> list[StoredRows]:
        """Every `StoredRows` of the rank."""
        tracked = [stored for _, group in self.tracked_shards for stored in group]
        return tracked + self.untracked + self.replicated


def of_fused(fused: FusedTables | None) -> list[tuple[int, list[StoredRows]]]:
    """Returns [(number of a shard, its `StoredRows`)] of fused tables, in order of their rows."""
    if fused is None:
        return []

    def stored(index, state):
        shard = fused.shards[index]
        variable = fused.states[state]
        vector = variable.shape.rank == 1
        return StoredRows(
            shard,
            state,
            (shard.rows,) if vector else (shard.rows, shard.width),
            variable.dtype,
            read=lambda begin, count: fused.read(index, begin, count, state),
            write=lambda begin, values: fused.write(index, begin, values, state),
        )

    order = sorted(range(len(fused.shards)), key=fused.row_range)
    return [(index, [stored(index, state) for state in fused.states]) for index in order]
