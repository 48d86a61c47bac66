"""The cross network in TensorFlow ops: needs no native library, compiles with XLA."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def layer_kernels(kernels: Sequence[tf.Tensor], biases: Sequence[tf.Tensor]) -> int:
    """Returns the kernels of a layer: 2 (low rank: V, W) or 1 (full rank: W).

    Raises:
        ValueError: there is no layer, or not one or two kernels for each bias.
    """
    if not biases or len(kernels) not in (len(biases), 2 * len(biases)):
        raise ValueError(
            f"cross network: expected 1 or 2 kernels per layer and at least one layer, found "
            f"{len(kernels)} kernels and {len(biases)} biases"
        )
    return len(kernels) // len(biases)


def cross_network_tensorflow(
    x0: tf.Tensor, kernels: Sequence[tf.Tensor], biases: Sequence[tf.Tensor]
) -> tf.Tensor:
    """Applies a cross network; formula in the package's docstring.

    Args:
        x0: [B, n], a float type.
        kernels: of its type; with low rank [n, r], [r, n] of layer 0, of layer 1, ...; with full
            rank [n, n] of each layer.
        biases: [n] of each layer, of the type of x0.

    Returns:
        [B, n] of the type of x0.

    Raises:
        ValueError: the numbers of kernels and biases do not match.
    """
    each = layer_kernels(kernels, biases)
    x = x0
    for layer, bias in enumerate(biases):
        z = x
        for kernel in kernels[each * layer : each * (layer + 1)]:
            z = tf.matmul(z, kernel)
        # For bfloat16 the gradient of + accumulates in float32, that of bias_add in bfloat16 on
        # CPUs, which cannot sum a batch (see `model.mlp.Dense`).
        z = z + bias if x0.dtype == tf.bfloat16 else tf.nn.bias_add(z, bias)
        x = x0 * z + x
    return x
