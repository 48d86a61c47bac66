"""Python wrapper of the native MLP: kernels for the device, gradients with and without a tape.

Shapes: B samples, K inputs, N layers of widths n1 .. nN.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import tensorflow as tf

from ops import loader


class MlpActivations(NamedTuple):
    """What a forward pass returns and keeps for the backward pass.

    Attributes:
        x: [B, K], the inputs.
        y: [B, nN], the outputs, of x's type.
        hidden: [B, n1], [B, n2] ..., outputs of the layers before the last one.
        saved: uint8, what else the op keeps on GPUs.
    """

    x: tf.Tensor
    y: tf.Tensor
    hidden: list[tf.Tensor]
    saved: tf.Tensor | None


class MlpGradients(NamedTuple):
    """The gradients of an MLP.

    Attributes:
        x: [B, K] of x's type, or None if not computed.
        kernels: float32 [K, n1], [n1, n2] ...
        biases: float32 [n1], [n2] ...
    """

    x: tf.Tensor | None
    kernels: list[tf.Tensor]
    biases: list[tf.Tensor]


def load_kernels(dtype: tf.DType) -> ModuleType:
    """Loads the kernels for this process's device and returns the module of the ops.

    With a GPU, and CUDA kernels in the op library, these are the kernels for GPUs, which do not
    need oneDNN; kernels for CPUs are loaded otherwise.

    Args:
        dtype: type of the inputs.

    Raises:
        ops.loader.LibraryNotBuiltError: a native library is not built (on CPUs: needs oneDNN).
        TypeError: the device has no kernel for this type.
    """
    device, dtypes = _kernels()
    if dtype not in dtypes:
        names = ", ".join(d.name for d in dtypes)
        raise TypeError(f"MLP: expected x of dtype {names} on a {device}; found {dtype.name}")
    return loader.load()


def kernel_device() -> str:
    """Returns the type of this process's device, "GPU" or "CPU"; see `load_kernels`.

    Raises:
        ops.loader.LibraryNotBuiltError: as `load_kernels`.
    """
    return _kernels()[0]


@functools.cache
def _kernels() -> tuple[str, tuple[tf.DType, ...]]:
    """Loads the kernels; returns (type of their device, types of x that they support)."""
    loader.load()
    found = loader.kernel_types("Dlrm>MlpForward")
    if "GPU" in found and tf.config.list_logical_devices("GPU"):
        return "GPU", found["GPU"]
    if "CPU" not in found:
        loader.load("mlp")
        found = loader.kernel_types("Dlrm>MlpForward")
    return "CPU", found["CPU"]


def mlp(
    x: tf.Tensor,
    kernels: Sequence[Any],
    biases: Sequence[Any],
    last_relu: bool = False,
    chunk_rows: int = 0,
    for_inference: bool = False,
    tf32: bool = False,
    name: str | None = None,
) -> tf.Tensor:
    """Applies an MLP and keeps the activations for its gradient.

    Args:
        x: [B, K], float32, bfloat16 or (GPUs only) float16.
        kernels: float32 [K, n1], [n1, n2] ... For 16-bit x they are rounded to its type.
        biases: float32 [n1], [n2] ... GPUs round them to the type of x.
        last_relu: whether to apply ReLU after the last layer.
        chunk_rows: samples that a thread computes at a time on a CPU; 0: chosen by the op. It
            affects the rounding of the gradients of kernels and biases.
        for_inference: keep no activations; the result then has no gradient.
        tf32: let GPUs round the operands of float32 products to TF32.
        name: name of the op.

    Returns:
        [B, nN], x's type. x, kernels and biases have a first gradient.

    Raises:
        ops.loader.LibraryNotBuiltError, TypeError: as `load_kernels`.
        ValueError, tf.errors.InvalidArgumentError: the shapes do not match.
    """
    hidden = 0 if for_inference else len(kernels) - 1
    _, y, *_ = _forward(x, kernels, biases, hidden, last_relu, tf32, chunk_rows, name)
    return y


def mlp_forward(
    x: tf.Tensor,
    kernels: Sequence[Any],
    biases: Sequence[Any],
    last_relu: bool = False,
    tf32: bool = False,
    chunk_rows: int = 0,
    name: str | None = None,
) -> MlpActivations:
    """Applies an MLP; `mlp_backward` returns its gradients without a tape.

    Arguments and errors are those of `mlp`.
    """
    return _forward(x, kernels, biases, len(kernels) - 1, last_relu, tf32, chunk_rows, name)


def mlp_backward(
    gradient: tf.Tensor,
    activations: MlpActivations,
    kernels: Sequence[Any],
    last_relu: bool = False,
    tf32: bool = False,
    chunk_rows: int = 0,
    input_gradient: bool = True,
    name: str | None = None,
) -> MlpGradients:
    """Returns the gradients of an MLP, given the gradient of its outputs.

    On a GPU the gradients of kernels and biases share one allocation, in the order kernel 0, bias
    0, kernel 1, ..., each aligned to 256 bytes.

    Args:
        gradient: [B, nN] of x's type.
        activations: the result of `mlp_forward`.
        kernels: as in the forward call.
        last_relu: as in the forward call; or False although ReLU follows the last layer, if
            `gradient` is that of this ReLU's input.
        tf32: as in the forward call.
        chunk_rows: as in the forward call.
        input_gradient: False leaves out the gradient of x.
        name: name of the op.

    Raises:
        ops.loader.LibraryNotBuiltError, TypeError: as `load_kernels`.
        ValueError, tf.errors.InvalidArgumentError: the shapes do not match.
    """
    x, y, hidden, saved = activations
    x_gradient, kernel_gradients, bias_gradients = load_kernels(x.dtype).dlrm_mlp_backward(
        gradient=gradient, y=y, x=x, hidden=hidden, kernels=kernels, saved=saved,
        last_relu=last_relu, chunk_rows=chunk_rows, tf32=tf32, input_gradient=input_gradient,
        name=name,
    )  # fmt: skip
    return MlpGradients(x_gradient if input_gradient else None, kernel_gradients, bias_gradients)


def _forward(x, kernels, biases, hidden, last_relu, tf32, chunk_rows, name):
    x = tf.convert_to_tensor(x)
    ops = load_kernels(x.dtype)
    if not kernels or len(kernels) != len(biases):
        raise ValueError(
            f"MLP: expected one kernel and one bias per layer, at least one layer; found "
            f"{len(kernels)} kernels and {len(biases)} biases"
        )
    y, kept, saved = ops.dlrm_mlp_forward(
        x=x, kernels=kernels, biases=biases, M=hidden, last_relu=last_relu, chunk_rows=chunk_rows,
        tf32=tf32, name=name,
    )  # fmt: skip
    return MlpActivations(x, y, kept, saved)


@tf.RegisterGradient("Dlrm>MlpForward")
def _gradient(op: tf.Operation, gradient: tf.Tensor, *_: tf.Tensor) -> tuple[Any, ...]:
    layers = op.get_attr("N")
    y, *hidden, saved = op.outputs
    if len(hidden) != layers - 1:
        raise ValueError(
            f"MLP gradient: expected {layers - 1} hidden activations for {layers} layers, found "
            f"{len(hidden)}; use mlp without for_inference"
        )
    options = {name: op.get_attr(name) for name in ("last_relu", "tf32", "chunk_rows")}
    activations = MlpActivations(op.inputs[0], y, hidden, saved)
    found = mlp_backward(gradient, activations, op.inputs[1 : 1 + layers], **options)
    return found.x, *found.kernels, *found.biases
