"""Lookup and updates with TensorFlow's standard ops, for use without the native library.

Ids out of range raise TensorFlow's error on CPUs; on GPUs TensorFlow reads zeros for them.
Duplicates are added in no particular order, so sums equal the native ops' up to rounding.

Bags need memory for each distinct row and for each bag, but not for each id: sparse segment sums
add rows, or gradients, without a copy of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from ops.bags import EMPTY
from ops.embedding.native import RowIds
from ops.embedding.segment_sums import sparse_segment_sum


def embedding_lookup_tensorflow(
    table: tf.Variable, where: RowIds, dtype: Any = tf.float32
) -> tf.Tensor:
    """Looks rows up with ``tf.gather``, and adds those of a bag; see ``embedding_lookup``."""
    if not where.has_bags:
        return tf.cast(tf.gather(table, _rows(where)), dtype)
    bags = _bag_rows(where)
    rows, numbers = tf.unique(bags.rows)
    sums = sparse_segment_sum(
        tf.gather(table, rows), numbers, bags.bag_of_id, tf.size(bags.factors)
    )
    vectors = bags.factors[:, tf.newaxis] * sums
    return tf.reshape(tf.cast(vectors, dtype), [-1, bags.features, table.shape[1]])


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
        where: the rows.
        gradients: [B, T, D].
        learning_rate: scalar.
        scale: scalar factor on the gradients; 0 leaves rows and states unchanged.
        formula: a `model.embedding.optimizers.RowOptimizer.formula`; None for SGD.
        hyperparameters: hyper-parameters of the rule.
    """
    gradients = tf.reshape(tf.cast(gradients, tf.float32), [-1, table.shape[1]])
    if where.has_bags:
        bags = _bag_rows(where)
        # The sum of the gradients of each row, whose ids are neighbours in this order.
        order = tf.argsort(bags.rows)
        rows, numbers = tf.unique(tf.gather(bags.rows, order))
        sums = sparse_segment_sum(
            bags.factors[:, tf.newaxis] * gradients,
            tf.gather(bags.bag_of_id, order), numbers, tf.size(rows),
        )  # fmt: skip
        slices = tf.IndexedSlices(sums, rows)
    else:
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


class _BagRows(NamedTuple):
    """The ids of all bags without empty slots. Bag b * T + t: those of sample b, feature t."""

    rows: tf.Tensor  # [n] int64 rows of the variable; -1 for ids out of range
    bag_of_id: tf.Tensor  # [n] int32, rising
    factors: tf.Tensor  # [B * T] float32: 1 / the number of ids of each bag to average, else 1
    features: int


def _bag_rows(where):
    if where.offsets is not None:
        offsets = tf.convert_to_tensor(where.offsets, tf.int32)
        lengths = offsets[1:] - offsets[:-1]
        bag_of_id = tf.repeat(tf.range(tf.size(lengths)), lengths)
        return _BagRows(_rows(where), bag_of_id, tf.ones_like(lengths, tf.float32), 1)
    features, slots = where.bags.features, where.bags.feature_of_slots()
    ids = tf.convert_to_tensor(where.ids)
    filled = (ids != EMPTY) | ~tf.gather(where.bags.variable, slots)
    rows = _rows(RowIds(ids, tf.gather(where.base_rows, slots), tf.gather(where.table_rows, slots)))
    bag_of_slot = tf.range(tf.shape(filled)[0])[:, tf.newaxis] * features + slots
    bag_of_id = tf.boolean_mask(bag_of_slot, filled)
    # Unlike tf.math.bincount, deterministic on GPUs, and of a static shape.
    counts = tf.math.unsorted_segment_sum(
        tf.cast(tf.transpose(filled), tf.float32), slots, features
    )
    means = [[pooling == "mean"] for pooling in where.bags.pooling]
    factors = 1 / tf.transpose(tf.where(means, tf.maximum(counts, 1.0), 1.0))
    return _BagRows(tf.boolean_mask(rows, filled), bag_of_id, tf.reshape(factors, [-1]), features)


def _rows(where):
    """Returns rows of the variable, int64 like the ids; -1 for ids out of range."""
    ids = tf.cast(where.ids, tf.int64)
    base_rows = tf.cast(where.base_rows, tf.int64)
    inside = (ids >= 0) & (ids < tf.cast(where.table_rows, tf.int64))
    # base + id could be a valid row of the next table.
    return tf.where(inside, ids + base_rows, tf.constant(-1, tf.int64))
