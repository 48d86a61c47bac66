"""Python wrapper of the native MLP: shapes, gradients, errors."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from ops import loader

_DTYPES = (tf.float32, tf.bfloat16)


def mlp(
    x: tf.Tensor,
    kernels: Sequence[tf.Tensor],
    biases: Sequence[tf.Tensor],
    last_relu: bool = False,
    chunk_rows: int = 0,
    for_inference: bool = False,
    name: str | None = None,
) -> tf.Tensor:
    """Applies an MLP and keeps the activations for its gradient.

    Args:
        x: [B, K], float32 or bfloat16.
        kernels: float32 [K, n1], [n1, n2] ... For bfloat16 x they are rounded to bfloat16.
        biases: float32 [n1], [n2] ..., not rounded.
        last_relu: whether to apply ReLU after the last layer.
        chunk_rows: samples that a thread computes at a time; 0: chosen by the op. It affects
            the rounding of the gradients of kernels and biases.
        for_inference: keep no activations; the result then has no gradient.
        name: name of the op.

    Returns:
        [B, nN], x's type. x, kernels and biases have a first gradient.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built (it needs oneDNN).
        TypeError: the type of x is not supported.
        ValueError, tf.errors.InvalidArgumentError: the shapes do not match.
    """
    ops = loader.load("mlp")
    x = tf.convert_to_tensor(x)
    if x.dtype not in _DTYPES:
        raise TypeError(
            f"MLP: expected x of dtype {', '.join(d.name for d in _DTYPES)}; found {x.dtype.name}"
        )
    if not kernels or len(kernels) != len(biases):
        raise ValueError(
            f"MLP: expected one kernel and one bias per layer, at least one layer; found "
            f"{len(kernels)} kernels and {len(biases)} biases"
        )
    y, *_ = ops.dlrm_mlp_forward(
        x=x, kernels=kernels, biases=biases, M=0 if for_inference else len(kernels) - 1,
        last_relu=last_relu, chunk_rows=chunk_rows, name=name,
    )  # fmt: skip
    return y


@tf.RegisterGradient("Dlrm>MlpForward")
def _gradient(op: tf.Operation, gradient: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
    layers = op.get_attr("N")
    y, *hidden, saved = op.outputs
    if len(hidden) != layers - 1:
        raise ValueError(
            f"MLP gradient: expected {layers - 1} hidden activations for {layers} layers, found "
            f"{len(hidden)}; use mlp without for_inference"
        )
    x, kernels = op.inputs[0], op.inputs[1 : 1 + layers]
    x_gradient, kernel_gradients, bias_gradients = loader.load("mlp").dlrm_mlp_backward(
        gradient=gradient, y=y, x=x, hidden=hidden, kernels=kernels, saved=saved,
        last_relu=op.get_attr("last_relu"), chunk_rows=op.get_attr("chunk_rows"),
    )  # fmt: skip
    return x_gradient, *kernel_gradients, *bias_gradients
