"""A consistent snapshot of the tables, read while training continues to update them.

Before a step updates rows that have not been read yet, their old values are copied (copy on
write). The reader of a range of rows overwrites what it has read with these copies: a row that a
step updated meanwhile was copied before that step began. So training waits only for the copies of
rows that it is about to update.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import tensorflow as tf

from model.embedding.tables import FusedTables

# `pieces` yields about this many bytes at a time.
_PIECE_BYTES = 32 << 20


class Snapshot:
    """The rows of a rank's fused tables at the time of construction.

    Args:
        fused: the tables; no step may be running.
        budget: bytes of copies to hold; beyond it `before_change` waits for `pieces`.
    """

    def __init__(self, fused: FusedTables, budget: int):
        self._fused = fused
        self._budget = budget
        self._row_bytes = sum(
            v.dtype.size * int(np.prod(_sizes(v)[1:])) for v in fused.states.values()
        )
        self._changed = threading.Condition()
        self._next = 0  # All rows below are read.
        self._copied = np.zeros(_sizes(fused.table)[0], bool)
        # (sorted rows, {state: their values})
        self._copies: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        self._held = 0
        self._ended = False

    def before_change(self, rows: np.ndarray, on_wait: Callable[[], None] = lambda: None) -> None:
        """Copies rows that are about to change, except those already copied or read.

        Args:
            rows: int64 row numbers of the fused variable, in any order, possibly repeated. Rows
                out of range are ignored: the step itself rejects them.
            on_wait: called before a wait for the disk.
        """
        with self._changed:
            while self._held > self._budget and not self._ended:
                on_wait()
                self._changed.wait()
            if self._ended:
                return
            rows = rows[(rows >= self._next) & (rows < len(self._copied))]
        rows = np.unique(rows[~self._copied[rows]])
        if not rows.size:
            return
        values = {
            state: tf.gather(values, rows).numpy() for state, values in self._fused.states.items()
        }
        with self._changed:
            self._copied[rows] = True
            self._copies.append((rows, values))
            self._held += rows.size * self._row_bytes

    def pieces(self, index: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields {state: values} of consecutive ranges of a shard's rows.

        Args:
            index: number of the shard in the rank's fused tables. Call with 0, 1, ... in order.
        """
        first, end = self._fused.row_range(index)
        step = max(1, _PIECE_BYTES // self._row_bytes)
        for begin in range(first, end, step):
            stop = min(begin + step, end)
            values = {state: self._fused.read_rows(begin, stop, state)
                      for state in self._fused.states}  # fmt: skip
            with self._changed:
                for rows, copied in self._copies:
                    low, high = np.searchsorted(rows, (begin, stop))
                    for state, part in copied.items():
                        values[state][rows[low:high] - begin] = part[low:high]
                self._next = stop
                if self._held > self._budget // 2:
                    self._forget()
                self._changed.notify_all()
            yield values

    def end(self) -> None:
        """Drops the copies and ends all waits."""
        with self._changed:
            self._ended = True
            self._copies = []
            self._changed.notify_all()

    def _forget(self) -> None:
        """Drops the copies of rows that have been read."""
        kept = []
        for rows, copied in self._copies:
            low = np.searchsorted(rows, self._next)
            if low < rows.size:
                rest = {state: part[low:].copy() for state, part in copied.items()}
                kept.append((rows[low:].copy(), rest))
        self._copies = kept
        self._held = sum(rows.size for rows, _ in kept) * self._row_bytes


def _sizes(variable: tf.Variable) -> list[int]:
    """Returns a variable's shape, which is fully known."""
    return cast("list[int]", variable.shape.as_list())
