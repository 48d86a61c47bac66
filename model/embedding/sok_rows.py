"""Row-wise tables in one variable whose rows SOK partitions over the ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from model.embedding.placement import Placement


class RowWiseTables:
    """The keys of row-wise tables.

    Each table takes ceil(its rows / N) rows of the variable of every rank, so that the key
    N * first row + id has the owner id mod N and the row first row + id div N, by SOK's map of
    keys (owner = key mod N, row = key div N, in 1.x and in 2.x).

    Args:
        placement: a `model.embedding.placement.Placement`.
        tables: indices of its row-wise tables, ascending.

    Attributes:
        tables: the same, as an array.
        rows: rows of each rank's variable.
        ranks: N.
        dimension: D.
    """

    def __init__(self, placement: Placement, tables: Sequence[int]):
        self.tables = np.array(tables)
        self.ranks, self.dimension = placement.ranks, placement.dimension
        rows = [-(-placement.vocab_sizes[table] // self.ranks) for table in tables]
        ends = np.cumsum(rows, dtype=np.int64)
        self.rows = int(ends[-1])
        self._first = ends - rows

    def keys(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the keys of all samples' ids: int64 [b, T] -> [b * tables]."""
        first_keys = tf.constant(self.ranks * self._first, tf.int64)
        return tf.reshape(tf.gather(ids, self.tables, axis=1) + first_keys, [-1])

    def place(self, table: int) -> tuple[int, int]:
        """Returns (index of the variable, its row) where this rank's part of a table starts."""
        return 0, int(self._first[np.flatnonzero(self.tables == table)[0]])
