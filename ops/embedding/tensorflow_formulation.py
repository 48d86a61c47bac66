"""Lookup and updates in TensorFlow's own ops: the same arguments and results, no native library.

Ids out of range raise TensorFlow's own error on CPUs; on GPUs TensorFlow reads zeros for them.
Duplicates are added in no particular order, so sums agree with the native ops' up to rounding.
"""

import tensorflow as tf


def embedding_lookup_tensorflow(table, ids, base_rows, table_rows, dtype=tf.float32):
    """Looks rows up with ``tf.gather``; see ``embedding_lookup``."""
    rows = _rows(ids, base_rows, table_rows)
    return tf.cast(tf.gather(table, rows), dtype)


def embedding_update_sgd_tensorflow(
    table, ids, gradients, base_rows, table_rows, learning_rate, scale=1.0
):
    """Subtracts each row's gradients with a scatter; see ``embedding_update_sgd``."""
    rows = _rows(ids, base_rows, table_rows)
    step = tf.cast(learning_rate, tf.float32) * tf.cast(scale, tf.float32)
    return table.scatter_sub(tf.IndexedSlices(step * tf.cast(gradients, tf.float32), rows))


def embedding_update_adagrad_tensorflow(
    table,
    accumulator,
    ids,
    gradients,
    base_rows,
    table_rows,
    learning_rate,
    scale=1.0,
    epsilon=1e-8,
):
    """Adagrad with unique rows and segment sums; see ``embedding_update_adagrad``."""
    rows = tf.reshape(_rows(ids, base_rows, table_rows), [-1])
    dimension = table.shape[1]
    gradients = tf.reshape(tf.cast(gradients, tf.float32), [-1, dimension])
    unique, segments = tf.unique(rows)
    sums = tf.math.unsorted_segment_sum(gradients, segments, tf.size(unique))
    sums *= tf.cast(scale, tf.float32)
    squares = tf.square(sums)
    if accumulator.shape.rank == 1:
        squares = tf.reduce_mean(squares, axis=1)
    accumulated = accumulator.scatter_add(tf.IndexedSlices(squares, unique))
    root = tf.sqrt(tf.gather(accumulated, unique)) + epsilon
    if accumulator.shape.rank == 1:
        root = root[:, tf.newaxis]
    step = tf.cast(learning_rate, tf.float32) * sums / root
    return table.scatter_sub(tf.IndexedSlices(step, unique))


def _rows(ids, base_rows, table_rows):
    """Returns rows of the variable [B, T], int64, with ids out of range made invalid rows."""
    ids = tf.cast(ids, tf.int64)
    base_rows = tf.cast(base_rows, tf.int64)
    inside = (ids >= 0) & (ids < tf.cast(table_rows, tf.int64))
    # An id past its own table could be a row of the next one: -1 is a row of none.
    return tf.where(inside, ids + base_rows, tf.constant(-1, tf.int64))
