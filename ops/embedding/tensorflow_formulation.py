"""Lookup and updates with TensorFlow's standard ops, for use without the native library.

Ids out of range raise TensorFlow's error on CPUs; on GPUs TensorFlow reads zeros for them.
Duplicates are added in no particular order, so sums equal the native ops' up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from ops.embedding.native import RowIds


def embedding_lookup_tensorflow(
    table: tf.Variable, where: RowIds, dtype: Any = tf.float32
) -> tf.Tensor:
    """Looks rows up with ``tf.gather``; see ``embedding_lookup``."""
    rows = _rows(where)
    return tf.cast(tf.gather(table, rows), dtype)


def embedding_update_tensorflow(
    table: tf.Variable,
    states: Sequence[tf.Variable],
    where: RowIds,
    gradients: Any,
    learning_rate: Any,
    scale: Any = 1.0,
    formula: Callable[..., tuple] | None = None,
    hyperparameters: Sequence[float] = (),
) -> None:
    """Updates rows with gathers, segment sums and scatters.

    Args:
        table: this and the arguments up to `scale` are those of ``embedding_update``.
        states: variables of the rule.
        where: the rows, with ids [B, T].
        gradients: [B, T, D].
        learning_rate: scalar.
        scale: scalar factor on the gradients; 0 leaves rows and states unchanged.
        formula: a `model.embedding.optimizers.RowOptimizer.formula`; None for SGD.
        hyperparameters: hyper-parameters of the rule.
    """
    gradients = tf.reshape(tf.cast(gradients, tf.float32), [-1, table.shape[1]])
    slices = tf.IndexedSlices(gradients, tf.reshape(_rows(where), [-1]))
    apply_slices(table, states, slices, learning_rate, scale, formula, hyperparameters)


def apply_slices(
    table: tf.Variable,
    states: Sequence[tf.Variable],
    slices: tf.IndexedSlices,
    learning_rate: Any,
    scale: Any = 1.0,
    formula: Callable[..., tuple] | None = None,
    hyperparameters: Sequence[float] = (),
) -> None:
    """Updates rows of a variable by their gradients, with ops on the variables' handles.

    A scale of exactly 0 leaves rows and states unchanged.

    Args:
        table: float32 variable [rows, D].
        states: float32 variables of the rule, [rows, D] or [rows].
        slices: gradients [n, D] and their rows [n]; rows may repeat.
        learning_rate: scalar.
        scale: scalar factor on the gradients; 0 leaves rows and states unchanged.
        formula: a `model.embedding.optimizers.RowOptimizer.formula`; None for SGD.
        hyperparameters: hyper-parameters of the rule.
    """
    rows, values = slices.indices, tf.cast(slices.values, tf.float32)
    rate, scale = tf.cast(learning_rate, tf.float32), tf.cast(scale, tf.float32)
    # 0 times a gradient that is not finite would be NaN.
    values = tf.where(scale == 0, 0.0, values)
    if formula is None:
        changes = (rate * scale) * values
    else:
        rows, segments = tf.unique(rows)
        sums = scale * tf.math.unsorted_segment_sum(values, segments, tf.size(rows))

        def gather(variable):
            return tf.raw_ops.ResourceGather(
                resource=variable.handle, indices=rows, dtype=tf.float32
            )

        before = [tf.expand_dims(gather(s), 1) if s.shape.rank == 1 else gather(s) for s in states]
        changes, after = formula(tf, lambda: gather(table), sums, before, rate, hyperparameters)
        changes = tf.where(scale == 0, 0.0, changes)
        for state, old, new in zip(states, before, after):
            updates = tf.where(scale == 0, old, new)
            if state.shape.rank == 1:
                updates = tf.squeeze(updates, 1)
            tf.raw_ops.ResourceScatterUpdate(resource=state.handle, indices=rows, updates=updates)
    tf.raw_ops.ResourceScatterSub(resource=table.handle, indices=rows, updates=changes)


def _rows(where):
    """Returns rows of the variable, int64 [B, T]; -1 for ids out of range."""
    ids = tf.cast(where.ids, tf.int64)
    base_rows = tf.cast(where.base_rows, tf.int64)
    inside = (ids >= 0) & (ids < tf.cast(where.table_rows, tf.int64))
    # base + id could be a valid row of the next table.
    return tf.where(inside, ids + base_rows, tf.constant(-1, tf.int64))
