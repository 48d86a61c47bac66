"""``dot_based_interact`` with the call and the layout of NVIDIA's op of that name.

Code written for that op imports this module unchanged:

    from tensorflow_dot_based_interact.python.ops import dot_based_interact_ops
    interact = dot_based_interact_ops.dot_based_interact

The original runs on GPUs alone; this one runs on the devices of ``ops.dot_interaction``, for any
number of features and any dimension, and takes bfloat16 too.
"""

from __future__ import annotations

import tensorflow as tf

from ops.dot_interaction import dot_interaction_stacked


def dot_based_interact(
    input: tf.Tensor, bottom_mlp_output: tf.Tensor, name: str | None = None
) -> tf.Tensor:
    """Dot interaction of stacked feature vectors, headed by the bottom MLP's output.

    Args:
        input: [B, F, D], row 0 of each sample the bottom MLP's output.
        bottom_mlp_output: [B, D], copied to the front of the output.
        name: of the result.

    Returns:
        [B, W]: [bottom_mlp_output | scalar products of rows i > j, row-major | zeros], W the used
        width rounded up to a multiple of 8 (480 for 27 x 128). As in the original, the gradient of
        the first D columns goes to ``bottom_mlp_output`` alone, that of the products to ``input``.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        TypeError: a type is not supported.
        ValueError, tf.errors.InvalidArgumentError: the shapes do not fit together.
    """
    interactions = dot_interaction_stacked(input)
    bottom_mlp_output = tf.convert_to_tensor(bottom_mlp_output)
    bottom_mlp_output.shape.assert_has_rank(2)
    dimension = tf.shape(bottom_mlp_output)[1]
    if bottom_mlp_output.shape[1] is not None:
        dimension = bottom_mlp_output.shape[1]
    output = tf.concat([bottom_mlp_output, interactions[:, dimension:]], axis=1, name=name)
    # Raises here if bottom_mlp_output is not as wide as the rows, rather than in the next layer.
    return tf.ensure_shape(output, interactions.shape)
