"""Python wrapper of the native dot interaction: shapes, gradients, errors."""

from __future__ import annotations

import tensorflow as tf

from ops import loader

_DTYPES = (tf.float32, tf.bfloat16, tf.float16)


def dot_interaction(bottom: tf.Tensor, vectors: tf.Tensor, name: str | None = None) -> tf.Tensor:
    """Computes the dot interaction of the bottom MLP's output and the embedding vectors.

    Args:
        bottom: [B, D], float32, bfloat16 or float16.
        vectors: [B, T, D], same type. T may be 0.
        name: name of the op.

    Returns:
        [B, output_width(T + 1, D)], same type; layout as in the package's docstring. Both
        arguments have a first gradient.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        TypeError: the types differ or are not supported.
        ValueError, tf.errors.InvalidArgumentError: the shapes do not fit together.
    """
    ops = loader.load()
    bottom = tf.convert_to_tensor(bottom)
    vectors = tf.convert_to_tensor(vectors)
    if bottom.dtype != vectors.dtype:
        raise TypeError(
            f"dot interaction: expected bottom and vectors of equal dtype, found "
            f"{bottom.dtype.name} and {vectors.dtype.name}"
        )
    _check_dtype(bottom.dtype)
    return ops.dlrm_dot_interaction_split(bottom=bottom, vectors=vectors, name=name)


def dot_interaction_stacked(features: tf.Tensor, name: str | None = None) -> tf.Tensor:
    """Computes the dot interaction of feature vectors in one tensor, without copying them.

    Args:
        features: [B, F, D] with row 0 the bottom MLP's output; float32, bfloat16 or float16.
        name: name of the op.

    Returns:
        [B, output_width(F, D)], same type; layout as in the package's docstring. `features` has a
        first gradient.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        TypeError: the type is not supported.
        ValueError, tf.errors.InvalidArgumentError: the shape is not [B, F >= 1, D >= 1].
    """
    ops = loader.load()
    features = tf.convert_to_tensor(features)
    _check_dtype(features.dtype)
    return ops.dlrm_dot_interaction(features=features, name=name)


def _check_dtype(dtype: tf.DType) -> None:
    if dtype not in _DTYPES:
        raise TypeError(
            f"dot interaction: expected dtype {', '.join(d.name for d in _DTYPES)}; "
            f"found {dtype.name}"
        )


@tf.RegisterGradient("Dlrm>DotInteraction")
def _stacked_gradient(op, gradient):
    return loader.load().dlrm_dot_interaction_grad(gradient=gradient, features=op.inputs[0])


@tf.RegisterGradient("Dlrm>DotInteractionSplit")
def _split_gradient(op, gradient):
    return loader.load().dlrm_dot_interaction_split_grad(
        gradient=gradient, bottom=op.inputs[0], vectors=op.inputs[1]
    )
