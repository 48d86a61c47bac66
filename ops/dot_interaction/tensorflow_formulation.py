"""The dot interaction in TensorFlow ops: needs no native library, compiles with XLA."""

import numpy as np
import tensorflow as tf


def output_width(features: int, dimension: int) -> int:
    """Returns W, the width of an output row, for F feature vectors of D elements each.

    Raises:
        ValueError: F or D is less than 1.
    """
    if features < 1 or dimension < 1:
        raise ValueError(
            f"dot interaction: expected at least 1 feature vector of at least 1 element, found "
            f"{features} of {dimension}"
        )
    used = dimension + features * (features - 1) // 2
    return (used + 7) // 8 * 8


def dot_interaction_tensorflow(bottom: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
    """Computes the dot interaction of the bottom MLP's output and the embedding vectors.

    Args:
        bottom: [B, D], a float type.
        vectors: [B, T, D], same type. T and D are static.

    Returns:
        [B, output_width(T + 1, D)], same type; layout as in the package's docstring.

    Raises:
        ValueError: T or D is unknown, or the shapes do not match.
    """
    bottom = tf.convert_to_tensor(bottom)
    vectors = tf.convert_to_tensor(vectors)
    bottom.shape.assert_has_rank(2)
    vectors.shape.assert_has_rank(3)
    tables, dimension = vectors.shape[1], vectors.shape[2]
    if tables is None or dimension is None:
        raise ValueError(
            "dot interaction: expected vectors [B, T, D] with static T and D, found shape "
            f"{vectors.shape}"
        )
    rows = tables + 1
    features = tf.concat([bottom[:, tf.newaxis, :], vectors], axis=1)
    # 16-bit inputs are widened first so that products accumulate in float32.
    wide = tf.cast(features, tf.float32) if features.dtype.size < 4 else features
    products = tf.linalg.matmul(wide, wide, transpose_b=True)
    i, j = np.tril_indices(rows, k=-1)
    pairs = tf.gather(tf.reshape(products, [-1, rows * rows]), i * rows + j, axis=1)
    padding = output_width(rows, dimension) - dimension - len(i)
    pairs = tf.pad(tf.cast(pairs, features.dtype), [[0, 0], [0, padding]])
    return tf.concat([bottom, pairs], axis=1)
