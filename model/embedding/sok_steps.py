"""What follows a lookup by SparseOperationKit: gradients of its variables, updates of their rows.

Shapes: b local batch, D embedding dimension.
"""

import tensorflow as tf

# As in `ops.embedding.embedding_update_adagrad`.
ADAGRAD_EPSILON = 1e-8


class LookupStep:
    """One lookup in one part: the tape that saw it, and how its vectors belong to samples.

    Args:
        tape: the `tf.GradientTape`.
        vectors: what SOK returned, [b * tables, D] or of distinct keys [m, D], in any shape.
        repeated: [b * tables] numbers of the distinct keys, or None where none was left out.
        shape: [b, tables, D].
    """

    def __init__(self, tape, vectors, repeated, shape):
        self._tape, self._vectors = tape, vectors
        self._repeated, self._shape = repeated, shape

    def expand(self, dtype):
        """Returns the vectors of all samples, [b, tables, D]."""
        vectors = tf.cast(self._vectors, dtype)
        if self._repeated is not None:
            vectors = tf.gather(vectors, self._repeated)
        return tf.reshape(vectors, self._shape)

    def gradients(self, gradients, variables):
        """Returns SOK's gradients of its variables, as `tf.IndexedSlices`, from [b, tables, D]."""
        flat = tf.cast(tf.reshape(gradients, [-1, self._shape[-1]]), tf.float32)
        if self._repeated is not None:
            count = tf.shape(self._vectors)[0]
            flat = tf.math.unsorted_segment_sum(flat, self._repeated, count)
        flat = tf.reshape(tf.cast(flat, self._vectors.dtype), tf.shape(self._vectors))
        return self._tape.gradient(self._vectors, variables, output_gradients=flat)


def apply_rows(variable, accumulator, slices, learning_rate, scale):
    """Updates rows as `ops.embedding` does: SGD, or Adagrad with an accumulator.

    Args:
        variable: SOK's variable, [rows, D].
        accumulator: Adagrad's sums of squares, [rows, D] or row-wise [rows]; None for SGD.
        slices: gradients of the rows, `tf.IndexedSlices`.
        learning_rate: scalar float32.
        scale: factor on the gradients.

    These are TensorFlow's ops on the variable's handle, because SOK 2's `OptimizerWrapper` takes
    dynamic variables alone and the Keras optimizers that SOK knows are those of old.
    """
    rows, values = slices.indices, tf.cast(slices.values, tf.float32)
    if accumulator is None:
        updates = (learning_rate * scale) * values
    else:
        rows, segments = tf.unique(rows)
        sums = scale * tf.math.unsorted_segment_sum(values, segments, tf.size(rows))
        squares = tf.square(sums)
        if accumulator.shape.rank == 1:
            squares = tf.reduce_mean(squares, axis=1)
        state = accumulator.handle
        tf.raw_ops.ResourceScatterAdd(resource=state, indices=rows, updates=squares)
        squares = tf.raw_ops.ResourceGather(resource=state, indices=rows, dtype=tf.float32)
        if accumulator.shape.rank == 1:
            squares = squares[:, tf.newaxis]
        updates = learning_rate * sums / (tf.sqrt(squares) + ADAGRAD_EPSILON)
    tf.raw_ops.ResourceScatterSub(resource=variable.handle, indices=rows, updates=updates)
