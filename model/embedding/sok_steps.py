"""What follows a lookup by SparseOperationKit: gradients of its variables, updates of their rows.

Shapes: b local batch, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from model.embedding.optimizers import RowOptimizer
from ops.embedding import apply_slices


class LookupStep:
    """One lookup in one part: the tape that saw it, and how its vectors belong to samples.

    Args:
        tape: the `tf.GradientTape`.
        vectors: what SOK returned, [b * tables, D] or of distinct keys [m, D], in any shape.
        repeated: [b * tables] numbers of the distinct keys, or None where none was left out.
        shape: [b, tables, D].
    """

    def __init__(
        self,
        tape: tf.GradientTape,
        vectors: tf.Tensor,
        repeated: tf.Tensor | None,
        shape: Sequence[int],
    ):
        self._tape, self._vectors = tape, vectors
        self._repeated, self._shape = repeated, shape

    def expand(self, dtype: tf.DType) -> tf.Tensor:
        """Returns the vectors of all samples, [b, tables, D]."""
        vectors = tf.cast(self._vectors, dtype)
        if self._repeated is not None:
            vectors = tf.gather(vectors, self._repeated)
        return tf.reshape(vectors, self._shape)

    def gradients(self, gradients: tf.Tensor, variables: Sequence[Any]) -> list[tf.IndexedSlices]:
        """Returns SOK's gradients of its variables, as `tf.IndexedSlices`, from [b, tables, D]."""
        flat = tf.cast(tf.reshape(gradients, [-1, self._shape[-1]]), tf.float32)
        if self._repeated is not None:
            count = tf.shape(self._vectors)[0]
            flat = tf.math.unsorted_segment_sum(flat, self._repeated, count)
        flat = tf.reshape(tf.cast(flat, self._vectors.dtype), tf.shape(self._vectors))
        tape: Any = self._tape  # the stubs have no single output gradient
        return tape.gradient(self._vectors, variables, output_gradients=flat)


def create_states(optimizer: RowOptimizer, variable: Any) -> dict[str, tf.Variable]:
    """Returns the states of an optimizer beside a variable of SOK.

    Args:
        optimizer: a `model.embedding.optimizers.RowOptimizer`.
        variable: SOK's variable, [rows, D].

    Returns:
        {name: `tf.Variable`}, in the optimizer's order.
    """
    rows, width = variable.shape
    return {
        state.name: tf.Variable(
            tf.fill(state.shape(rows, width), optimizer.initial_value(state)),
            trainable=False, name=state.name,
        )
        for state in optimizer.states
    }  # fmt: skip


def apply_rows(
    variable: Any,
    states: Mapping[str, tf.Variable],
    slices: tf.IndexedSlices,
    learning_rate: Any,
    scale: Any,
    optimizer: RowOptimizer,
) -> None:
    """Updates rows as the native backend does, in TensorFlow's ops.

    These are ops on the variable's handle, because SOK 2's `OptimizerWrapper` takes dynamic
    variables alone and SOK supports only the old Keras optimizers.

    Args:
        variable: SOK's variable, [rows, D].
        states: what `create_states` returned for it.
        slices: gradients of the rows, `tf.IndexedSlices`.
        learning_rate: scalar float32.
        scale: factor on the gradients.
        optimizer: a `model.embedding.optimizers.RowOptimizer`.
    """
    apply_slices(
        variable, list(states.values()), slices, learning_rate, scale, optimizer.formula,
        optimizer.rule_values,
    )  # fmt: skip
