"""Averages dense gradients and updates the variables with the project's GPU kernels.

On several ranks, everything that is averaged travels as one buffer, so that Horovod copies nothing
into a buffer of its own.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ops.log_loss.native import MOST_TENSORS, all_finite
from training.dense_phases import DenseUpdate


class NativeUpdate(DenseUpdate):
    """A `DenseUpdate` whose arithmetic is a few kernels, for gradients on a GPU.

    The averaged gradients are (pieces, loss scale): float32 tensors whose concatenation has the
    scaled gradients of all variables, in order, at its beginning.
    """

    def average(
        self,
        loss: tf.Tensor,
        gradients: list[tf.Tensor],
        vector_gradients: tf.Tensor,
        scale: tf.Tensor,
        local_votes: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tuple[list[tf.Tensor], tf.Tensor], tf.Tensor | None]:
        """See `DenseUpdate.average`."""
        skips = self._scale.skips
        if self._cluster.size == 1:
            finite = _all_finite([*gradients, loss, vector_gradients]) if skips else None
            return loss, local_votes, (gradients, scale), finite
        local = [*(tf.reshape(g, [-1]) for g in gradients), tf.expand_dims(loss, 0), local_votes]
        if skips:
            # NaN on one rank makes the mean NaN on all.
            flag = tf.where(_all_finite([vector_gradients]), 0.0, float("nan"))
            local.append(tf.expand_dims(flag, 0))
        (flat,) = self._cluster.all_reduce_mean([tf.concat(local, 0)], "dense_gradients")
        first = sum(part.shape.num_elements() or 0 for part in local[: len(gradients)])
        loss, votes = flat[first], flat[first + 1 : -1 if skips else None]
        return loss, votes, ([flat], scale), _all_finite([flat]) if skips else None

    def update(
        self,
        averaged: Any,
        loss: tf.Tensor,
        learning_rate: tf.Tensor,
        finite: tf.Tensor | None,
    ) -> tuple[()]:
        """See `DenseUpdate.update`."""
        pieces, scale = averaged
        weights_finite = self._optimizer.apply_native(pieces, learning_rate, scale, finite)
        if finite is not None:
            self._scale.after_step(finite)
        self._losses.add_native(loss, finite, weights_finite)
        return ()


def _all_finite(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Returns whether all elements of tensors of any float types are finite, a scalar bool."""
    by_dtype: dict[tf.DType, list[tf.Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    found = [
        all_finite(same[begin : begin + MOST_TENSORS])
        for same in by_dtype.values()
        for begin in range(0, len(same), MOST_TENSORS)
    ]
    finite, *rest = found
    for other in rest:
        finite = tf.logical_and(finite, other)
    return finite
