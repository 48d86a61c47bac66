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
    name: str | None = None,
) -> tf.Tensor:
    """Applies an MLP; keeps the activations for its gradient.

    Args:
        x: [B, K], float32 or bfloat16.
        kernels: float32 [K, n1], [n1, n2] ... In bfloat16 they are rounded for the products.
        biases: float32 [n1], [n2] ..., not rounded.
        last_relu: a ReLU after the last layer too.
        chunk_rows: samples that a thread takes through all layers at a time, 0: the op's choice.
            The gradients of kernels and biases depend on it in their last bits.
        name: of the op.

    Returns:
        [B, nN], x's type. Differentiable once with respect to x, kernels and biases.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built (it needs oneDNN).
        TypeError: the type of x is not supported.
        ValueError, tf.errors.InvalidArgumentError: the shapes do not fit together.
    """
    return _forward(x, kernels, biases, last_relu, chunk_rows, len(kernels) - 1, name)


def mlp_for_inference(
    x: tf.Tensor,
    kernels: Sequence[tf.Tensor],
    biases: Sequence[tf.Tensor],
    last_relu: bool = False,
    chunk_rows: int = 0,
    name: str | None = None,
) -> tf.Tensor:
    """Applies an MLP as `mlp` does, but keeps no hidden activation: it has no gradient."""
    return _forward(x, kernels, biases, last_relu, chunk_rows, 0, name)


def _forward(
    x: tf.Tensor,
    kernels: Sequence[tf.Tensor],
    biases: Sequence[tf.Tensor],
    last_relu: bool,
    chunk_rows: int,
    keep: int,
    name: str | None,
) -> tf.Tensor:
    ops = loader.load("mlp")
    x = tf.convert_to_tensor(x)
    if x.dtype not in _DTYPES:
        raise TypeError(
            f"the MLP op takes {', '.join(d.name for d in _DTYPES)}; got {x.dtype.name}"
        )
    if not kernels or len(kernels) != len(biases):
        raise ValueError(
            f"an MLP has a kernel and a bias for each of its layers, at least one; got "
            f"{len(kernels)} kernels and {len(biases)} biases"
        )
    y, _ = ops.dlrm_mlp_forward(
        x=x, kernels=kernels, biases=biases, M=keep, last_relu=last_relu, chunk_rows=chunk_rows,
        name=name,
    )  # fmt: skip
    return y


@tf.RegisterGradient("Dlrm>MlpForward")
def _gradient(op: tf.Operation, gradient: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
    layers = op.get_attr("N")
    y, hidden = op.outputs[0], op.outputs[1:]
    if len(hidden) != layers - 1:
        raise ValueError(
            f"the gradient of an MLP of {layers} layers needs {layers - 1} hidden activations, but "
            f"this one kept {len(hidden)}: use ops.mlp.mlp where a gradient is taken"
        )
    x, kernels = op.inputs[0], op.inputs[1 : 1 + layers]
    x_gradient, kernel_gradients, bias_gradients = loader.load("mlp").dlrm_mlp_backward(
        gradient=gradient, y=y, x=x, hidden=hidden, kernels=kernels,
        last_relu=op.get_attr("last_relu"), chunk_rows=op.get_attr("chunk_rows"),
    )  # fmt: skip
    return x_gradient, *kernel_gradients, *bias_gradients
