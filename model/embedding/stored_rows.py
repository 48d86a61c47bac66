"""A rank's rows and optimizer states, as checkpoints read and write them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Callable

import numpy as np
import tensorflow as tf

from model.embedding.shards import Shard
from model.embedding.tables import FusedTables

# Bytes of a shard that are read or written at once without a snapshot.
_PIECE_BYTES = 32 << 20


@dataclasses.dataclass(frozen=True)
class StoredRows:
    """One state of one of this rank's shards: its rows or an optimizer state.

    Attributes:
        shard: the shard.
        state: "table", or the name of an optimizer state.
        shape: (rows, columns), or (rows,) for a state with one value per row.
        dtype: of the values.
        read: function (begin, count) -> array of the shard's rows [begin, begin + count).
        write: function (begin, values) that overwrites rows from `begin` on.
    """

    shard: Shard
    state: str
    shape: tuple[int, ...]
    dtype: tf.DType
    read: Callable[[int, int], np.ndarray]
    write: Callable[[int, np.ndarray], None]

    @property
    def name(self) -> str:
        """The file's name without its suffix, unique among all ranks."""
        kind = "" if self.state == "table" else f".{self.state}"
        return f"table_{self.shard.table:02d}{kind}.rank_{self.shard.rank}"

    @property
    def description(self) -> dict:
        """The manifest's entry without file, shape and dtype."""
        names = ("table", "row_offset", "row_stride", "rows", "column_start", "column_end")
        return {"state": self.state, **{name: getattr(self.shard, name) for name in names}}

    @property
    def bytes(self) -> int:
        """Bytes of the values."""
        return self.dtype.size * int(np.prod(self.shape, dtype=np.int64))

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yields (begin, count) of consecutive pieces of at most about 32 MiB."""
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
        tracked: the variable whose rows `Embedding.touched_rows` returns, so that it can be read
            while training changes it; None if this rank has none.
        tracked_shards: [(index of a shard in `tracked`, its `StoredRows`)], in order of rows.
        untracked: rows that can be read only while training waits.
        replicated: rows of which every rank holds a copy.
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
    """Returns [(index of a shard, its `StoredRows`)] of fused tables, in order of their rows."""
    if fused is None:
        return []

    def stored(index, state):
        shard = fused.shards[index]
        variable = fused.states[state]
        per_row = variable.shape.rank == 1
        return StoredRows(
            shard,
            state,
            (shard.rows,) if per_row else (shard.rows, shard.width),
            variable.dtype,
            read=lambda begin, count: fused.read(index, begin, count, state),
            write=lambda begin, values: fused.write(index, begin, values, state),
        )

    order = sorted(range(len(fused.shards)), key=fused.row_range)
    return [(index, [stored(index, state) for state in fused.states]) for index in order]
