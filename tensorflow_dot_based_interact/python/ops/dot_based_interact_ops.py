"""``dot_based_interact`` with the signature and layout of NVIDIA's op of that name.

Code written for that op works unchanged:

    from tensorflow_dot_based_interact.python.ops import dot_based_interact_ops
    interact = dot_based_interact_ops.dot_based_interact

The original runs only on GPUs. This one runs on CPUs and GPUs, for any number of features and any
dimension, and also accepts bfloat16.
"""

from __future__ import annotations

import tensorflow as tf

from ops.dot_interaction import dot_interaction_stacked


def dot_based_interact(
    input: tf.Tensor, bottom_mlp_output: tf.Tensor, name: str | None = None
) -> tf.Tensor:
    """Computes the dot interaction of stacked feature vectors, after the bottom MLP's output.

    Args:
        input: [B, F, D], row 0 of each sample the bottom MLP's output.
        bottom_mlp_output: [B, D], copied to the front of the output.
        name: name of the result.

    Returns:
        [B, W]: [bottom_mlp_output | scalar products of rows i > j, row-major | zeros], W the used
        width rounded up to a multiple of 8 (480 for 27 x 128). As in the original, the gradient of
        the first D columns goes only to ``bottom_mlp_output``, the products' gradient to ``input``.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        TypeError: a type is not supported.
        ValueError, tf.errors.InvalidArgumentError: the shapes do not match.
    """
    interactions = dot_interaction_stacked(input)
    bottom_mlp_output = tf.convert_to_tensor(bottom_mlp_output)
    bottom_mlp_output.shape.assert_has_rank(2)
    dimension = tf.shape(bottom_mlp_output)[1]
    if bottom_mlp_output.shape[1] is not None:
        dimension = bottom_mlp_output.shape[1]
    output = tf.concat([bottom_mlp_output, interactions[:, dimension:]], axis=1, name=name)
    # Fails here instead of in the next layer if bottom_mlp_output and the rows differ in width.
    return tf.ensure_shape(output, interactions.shape)
