"""A rank's tables: one fused float32 variable, its initial values and optimizer states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from model.embedding.optimizers import RowOptimizer, find
from model.embedding.placement import Placement, check_optimizer
from model.embedding.shards import Shard
from ops import embedding as kernels

# Rows that are initialised at once if the variable's width is not D.
_CHUNK_ROWS = 1 << 16


class FusedTables:
    """Shards of tables, back to back in one variable, with lookup and in-place update.

    Args:
        placement: the placement of the shards.
        shards: this rank's `Shard`s.
        first_rows: the first row of each shard in the variable.
        rows: rows of the variable, 1 or more.
        width: columns of the variable, D or D / 2.
        seed: the run's seed. Row i of table t starts as U(-sqrt(1 / rows), sqrt(1 / rows)), the
            same values for every placement.
        optimizer: a name in `model.embedding.optimizers.OPTIMIZERS`, or a `RowOptimizer`.
        native: use the project's ops; False: equivalent TensorFlow ops.
        deterministic: False lets a GPU add the gradients of SGD in any order, which is faster.

    Attributes:
        shards: this rank's `Shard`s.
        table: the variable, [rows, width].
        states: {name: variable}: "table", then the optimizer's states in its order, [rows, width]
            or [rows].

    Raises:
        PlacementError: the optimizer's states cannot be split like the tables.
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
        deterministic: bool = False,
    ):
        self._optimizer = find(optimizer)
        check_optimizer(placement, self._optimizer)
        self._placement = placement
        self.shards = list(shards)
        self._first_rows = first_rows
        self._native, self._deterministic = native, deterministic
        self.table = kernels.create_table(rows, width)
        for shard, first in zip(shards, first_rows):
            self._initialize(shard, first, seed)
        self.states = {"table": self.table}
        for state in self._optimizer.states:
            values = tf.fill(state.shape(rows, width), self._optimizer.initial_value(state))
            self.states[state.name] = tf.Variable(values, trainable=False, name=state.name)

    def lookup(
        self, where: kernels.RowIds, dtype: tf.DType, *, side_stream: bool = False
    ) -> tf.Tensor:
        """Looks up rows.

        Args:
            where: the rows of B samples.
            dtype: of the result.
            side_stream: see `ops.embedding.embedding_lookup`; only with the project's ops.

        Returns:
            [B, T, width] in `dtype`.

        Raises:
            tf.errors.InvalidArgumentError: an id is outside its table.
        """
        if not self._native:
            return kernels.embedding_lookup_tensorflow(self.table, where, dtype=dtype)
        return kernels.embedding_lookup(self.table, where, dtype=dtype, side_stream=side_stream)

    def update(
        self,
        where: kernels.RowIds,
        gradients: tf.Tensor,
        learning_rate: Any,
        scale: Any,
        *,
        side_stream: bool = False,
    ) -> tf.Operation | None:
        """Updates rows and their optimizer states in place.

        Args:
            where: the rows of B samples.
            gradients: [B, T, width].
            learning_rate: scalar float32.
            scale: factor on the gradients; 0 leaves rows and states unchanged.
            side_stream: as for `lookup`.

        Returns:
            In a graph, with the project's ops, the update.

        Raises:
            tf.errors.InvalidArgumentError: an id is outside its table.
        """
        table, *states = self.states.values()
        values = self._optimizer.rule_values
        if self._native:
            rule = kernels.RowRule(self._optimizer.name, values, self._deterministic)
            return kernels.embedding_update(
                table, states, where, gradients, learning_rate, scale, rule, side_stream
            )
        kernels.embedding_update_tensorflow(
            table, states, where, gradients, learning_rate, scale, self._optimizer.formula, values
        )
        return None

    def row_range(self, index: int) -> tuple[int, int]:
        """Returns (first, one past the last) row of a shard in the variable."""
        first, size, _ = self._span(index, 0, self.shards[index].rows, "table")
        return first, first + size

    def read_rows(self, begin: int, end: int, state: str = "table") -> np.ndarray:
        """Returns a copy of rows [begin, end) of a variable as a NumPy array."""
        # Not variable[begin:end]: after a gather, TensorFlow copies the complete table for it.
        # With int32 indices a GPU computes int32 offsets, which overflow in tables of 8 GiB.
        return tf.gather(self.states[state], tf.range(begin, end, dtype=tf.int64)).numpy()

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
        """Overwrites rows [begin, begin + len(values)) of a shard; see `read`."""
        at, size, shape = self._span(index, begin, len(values), state)
        if values.shape != shape:
            raise ValueError(
                f"shard {index}, {state}: expected values of shape {shape}, found {values.shape}"
            )
        variable = self.states[state]
        kernels.write_rows(variable, at, values.reshape(size, *variable.shape[1:]))

    def _span(self, index, begin, count, state):
        shard = self.shards[index]
        if not 0 <= begin <= begin + count <= shard.rows:
            raise ValueError(
                f"shard {index}: rows [{begin}, {begin + count}) are outside [0, {shard.rows})"
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
        # A value depends on its column in the table, so complete rows are initialised and cut.
        for begin in range(0, shard.rows, _CHUNK_ROWS):
            count = min(_CHUNK_ROWS, shard.rows - begin)
            complete = kernels.create_table(count, dimension)
            kernels.embedding_initialize(
                complete, base_row=0, rows=count,
                first_row=shard.row_offset + begin * shard.row_stride, **values,
            )  # fmt: skip
            part = tf.reshape(complete[:, shard.column_start : shard.column_end], [-1, width])
            kernels.write_rows(self.table, first + begin * (shard.width // width), part)
