"""A rank's tables: one float32 variable, its initial values, its optimizer's states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from model.embedding.optimizers import RowOptimizer, find
from model.embedding.placement import Placement, check_optimizer
from model.embedding.shards import Shard
from ops import embedding as kernels

if TYPE_CHECKING:
    from model.embedding.interface import Ranks

# Rows that are written at once where a shard does not lie in rows of its own width.
_CHUNK_ROWS = 1 << 16


class FusedTables:
    """Shards of tables back to back in one variable, with lookup and in-place update.

    Args:
        placement: the `model.embedding.placement.Placement` that the shards are from.
        shards: this rank's `Shard`s.
        first_rows: the first row of each shard in the variable.
        rows: rows of the variable, 1 or more.
        width: columns of the variable, D or D / 2.
        seed: the run's seed. Row i of table t starts as U(-sqrt(1 / rows), sqrt(1 / rows)), the
            same values whatever the placement.
        optimizer: a name in `model.embedding.optimizers.OPTIMIZERS`, or a `RowOptimizer`.
        native: the project's ops; False takes TensorFlow's formulation of them.

    Attributes:
        shards: this rank's `Shard`s.
        table: the variable, [rows, width].
        states: {name: variable} of what there is for each row: "table", then the optimizer's states
            in its order, [rows, width] or [rows].
    """

    def __init__(
        self,
        placement: Placement,
        shards: Sequence[Shard],
        first_rows: Sequence[int],
        rows: int,
        width: int,
        *,
        seed: int,
        optimizer: str | RowOptimizer = "sgd",
        native: bool = True,
    ):
        self._optimizer = find(optimizer)
        check_optimizer(placement, self._optimizer)
        self._placement = placement
        self.shards = list(shards)
        self._first_rows = first_rows
        self._native = native
        self.table = kernels.create_table(rows, width)
        for shard, first in zip(shards, first_rows):
            self._initialize(shard, first, seed)
        self.states = {"table": self.table}
        for state in self._optimizer.states:
            values = tf.fill(state.shape(rows, width), self._optimizer.initial_value(state))
            self.states[state.name] = tf.Variable(values, trainable=False, name=state.name)

    def lookup(
        self, ids: tf.Tensor, base_rows: np.ndarray, table_rows: np.ndarray, dtype: tf.DType
    ) -> tf.Tensor:
        """Returns [B, T, width]; see `ops.embedding.embedding_lookup`."""
        function = kernels.embedding_lookup if self._native else kernels.embedding_lookup_tensorflow
        return function(self.table, ids, base_rows, table_rows, dtype=dtype)

    def update(
        self,
        ids: Any,
        gradients: tf.Tensor,
        base_rows: np.ndarray,
        table_rows: np.ndarray,
        learning_rate: Any,
        scale: Any,
    ) -> None:
        """Applies gradients [B, T, width]; see `ops.embedding.embedding_update`."""
        table, *states = self.states.values()
        where = kernels.RowIds(ids, base_rows, table_rows)
        values = self._optimizer.rule_values
        if self._native:
            rule = kernels.RowRule(self._optimizer.name, values)
            kernels.embedding_update(table, states, where, gradients, learning_rate, scale, rule)
        else:
            kernels.embedding_update_tensorflow(
                table, states, where, gradients, learning_rate, scale, self._optimizer.formula,
                values,
            )  # fmt: skip

    def row_range(self, index: int) -> tuple[int, int]:
        """Returns the (first, one past the last) row of the variable that a shard takes up."""
        first, size, _ = self._span(index, 0, self.shards[index].rows, "table")
        return first, first + size

    def read_rows(self, begin: int, end: int, state: str = "table") -> np.ndarray:
        """Returns rows [begin, end) of a variable as a NumPy array of its own."""
        # Not variable[begin:end]: TensorFlow copies the whole table for it once rows were gathered.
        return tf.gather(self.states[state], tf.range(begin, end)).numpy()

    def read(self, index: int, begin: int, count: int, state: str = "table") -> np.ndarray:
        """Returns rows [begin, begin + count) of a shard as a NumPy array.

        Args:
            index: which of this rank's shards.
            begin: first row, counted in the shard.
            count: number of rows.
            state: a name in `states`.

        Returns:
            float32 [count, columns of the shard], or [count] for a state per row.
        """
        at, size, shape = self._span(index, begin, count, state)
        return self.read_rows(at, at + size, state).reshape(shape)

    def write(self, index: int, begin: int, values: np.ndarray, state: str = "table") -> None:
        """Overwrites rows [begin, ...) of a shard: the arguments are those of `read`."""
        at, size, shape = self._span(index, begin, len(values), state)
        if values.shape != shape:
            raise ValueError(f"shard {index} takes {shape} values of {state}, got {values.shape}")
        variable = self.states[state]
        kernels.write_rows(variable, at, values.reshape(size, *variable.shape[1:]))

    def _span(self, index, begin, count, state):
        shard = self.shards[index]
        if not 0 <= begin <= begin + count <= shard.rows:
            raise ValueError(
                f"rows {begin} to {begin + count} are outside the {shard.rows} of shard {index}"
            )
        if self.states[state].shape.rank == 1:
            return self._first_rows[index] + begin, count, (count,)
        pieces = shard.width // self.table.shape[1]
        return self._first_rows[index] + begin * pieces, count * pieces, (count, shard.width)

    def _initialize(self, shard, first, seed):
        values = {
            "table_index": shard.table,
            "seed": seed,
            "row_stride": shard.row_stride,
            "limit": math.sqrt(1.0 / self._placement.vocab_sizes[shard.table]),
        }
        dimension, width = self._placement.dimension, self.table.shape[1]
        if width == dimension:
            kernels.embedding_initialize(
                self.table, base_row=first, rows=shard.rows, first_row=shard.row_offset, **values
            )
            return
        # A row's values depend on its columns in the whole table, so whole rows are made aside.
        for begin in range(0, shard.rows, _CHUNK_ROWS):
            count = min(_CHUNK_ROWS, shard.rows - begin)
            whole = kernels.create_table(count, dimension)
            kernels.embedding_initialize(
                whole, base_row=0, rows=count,
                first_row=shard.row_offset + begin * shard.row_stride, **values,
            )  # fmt: skip
            part = tf.reshape(whole[:, shard.column_start : shard.column_end], [-1, width])
            kernels.write_rows(self.table, first + begin * (shard.width // width), part)


class ReplicatedTables:
    """Small tables that every rank holds whole: no vector travels, gradients are averaged.

    Args:
        placement: a placement with replicated tables.
        cluster: the ranks (`training.runtime.process_group`).
        seed, optimizer, native: as for `FusedTables`.

    Attributes:
        tables: indices of the replicated tables.
        fused: their `FusedTables`.
    """

    def __init__(
        self,
        placement: Placement,
        cluster: Ranks,
        *,
        seed: int,
        optimizer: str | RowOptimizer = "sgd",
        native: bool = True,
    ):
        self._cluster = cluster
        self.tables = list(placement.replicated_tables)
        shards = [s for s in placement.shards_of(cluster.rank) if s.kind == "replicated"]
        sizes = [shard.rows for shard in shards]
        self._base = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._sizes = np.array(sizes, np.int64)
        self.fused = FusedTables(
            placement, shards, [int(b) for b in self._base[:-1]], int(self._base[-1]),
            placement.dimension, seed=seed, optimizer=optimizer, native=native,
        )  # fmt: skip

    def lookup(self, ids: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Returns [b, R, D] from the ids [b, R] of the replicated tables."""
        return self.fused.lookup(ids, self._base[:-1], self._sizes, dtype)

    def exchange_gradients(
        self, ids: tf.Tensor, gradients: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Sums the gradients of all ranks by row; a collective call.

        Args:
            ids: [b, R].
            gradients: [b, R, D], of this rank's mean loss.

        Returns:
            (rows, sums): the rows that any rank's samples name, int32 [n, 1], and the sums of
            their gradients, float32 [n, 1, D].
        """
        count = int(self._base[-1])  # these tables are small
        rows = tf.cast(ids, tf.int64) + self._base[:-1]
        sums = tf.math.unsorted_segment_sum(tf.cast(gradients, tf.float32), rows, count)
        named = tf.math.unsorted_segment_sum(tf.ones_like(rows, tf.float32), rows, count)
        mean, named = self._cluster.all_reduce_mean([sums, named], "replicated_gradients")
        # Others keep their bytes: not every optimizer leaves a row alone at a gradient of 0.
        touched = tf.where(named > 0)
        return tf.cast(touched, tf.int32), tf.gather(mean, touched) * self._cluster.size

    def update(
        self, gradients: tuple[tf.Tensor, tf.Tensor], learning_rate: Any, scale: Any
    ) -> None:
        """Applies what `exchange_gradients` returned to this rank's copy."""
        rows, sums = gradients
        self.fused.update(rows, sums, np.zeros(1, np.int64), self._base[-1:], learning_rate, scale)
