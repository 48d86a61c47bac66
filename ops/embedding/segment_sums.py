"""Sums of rows by segment that also work for none on a GPU."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def sparse_segment_sum(
    values: tf.Tensor, indices: tf.Tensor, segments: tf.Tensor, count: Any
) -> tf.Tensor:
    """Returns the sum of the rows of each segment, without a copy of each row.

    Args:
        values: [n, D].
        indices: [m], of rows of `values`.
        segments: [m], ascending, the segment of each; below `count`.
        count: number of segments, an integer or int32 scalar; may be 0.

    Returns:
        [count, D], zeros for segments without rows.
    """
    # TensorFlow's kernel for GPUs rejects 0 segments.
    sums = tf.sparse.segment_sum(values, indices, segments, num_segments=tf.maximum(count, 1))
    return sums[:count]
