"""Python wrapper of the native cross network: kernels, gradients.

Shapes: B samples, n columns, r rank, L layers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import tensorflow as tf

from ops import loader
from ops.cross.tensorflow_formulation import layer_kernels


@functools.cache
def _load() -> tuple[ModuleType, tuple[tf.DType, ...]]:
    """Loads the kernels; returns (the module of the ops, the types of x0 that they support)."""
    ops = loader.load("mlp")
    return ops, loader.kernel_types("Dlrm>CrossForward")["CPU"]


def cross_network(
    x0: tf.Tensor,
    kernels: Sequence[Any],
    biases: Sequence[Any],
    for_inference: bool = False,
    chunk_rows: int = 0,
    name: str | None = None,
) -> tf.Tensor:
    """Applies a cross network on a CPU and keeps what its gradient needs.

    Args:
        x0: [B, n], float32 or bfloat16.
        kernels: float32; with low rank [n, r], [r, n] of layer 0, of layer 1, ...; with full rank
            [n, n] of each layer. For bfloat16 x0 they are rounded to its type.
        biases: float32 [n] of each layer.
        for_inference: keep no activations; the result then has no gradient.
        chunk_rows: samples that a thread computes at a time; 0: chosen by the op. It affects the
            rounding of the gradients of kernels and biases.
        name: name of the op.

    Returns:
        [B, n] of the type of x0. x0, kernels and biases have a first gradient.

    Raises:
        ops.loader.LibraryNotBuiltError: a native library is not built (needs oneDNN).
        TypeError: the type of x0 is not supported.
        ValueError, tf.errors.InvalidArgumentError: the shapes do not match.
    """
    x0 = tf.convert_to_tensor(x0)
    ops, dtypes = _load()
    if x0.dtype not in dtypes:
        names = ", ".join(d.name for d in dtypes)
        raise TypeError(f"cross network: expected x0 of dtype {names}; found {x0.dtype.name}")
    layers = len(biases)
    ranks = (layer_kernels(kernels, biases) - 1) * layers
    inner, outer = (0, 0) if for_inference else (ranks, layers)
    y, *_ = ops.dlrm_cross_forward(
        x0=x0, kernels=kernels, biases=biases, I=inner, M=outer, chunk_rows=chunk_rows, name=name
    )
    return y


@tf.RegisterGradient("Dlrm>CrossForward")
def _gradient(op: tf.Operation, gradient: tf.Tensor, *_: tf.Tensor) -> tuple[Any, ...]:
    kernels, inner, outer = (op.get_attr(name) for name in ("N", "I", "M"))
    if outer == 0:
        raise ValueError(
            "cross network gradient: expected the layers' activations, found none; use "
            "cross_network without for_inference"
        )
    ops, _ = _load()
    found = ops.dlrm_cross_backward(
        gradient=gradient,
        x0=op.inputs[0],
        inner=op.outputs[1 : 1 + inner],
        outer=op.outputs[1 + inner :],
        kernels=op.inputs[1 : 1 + kernels],
        chunk_rows=op.get_attr("chunk_rows"),
    )
    return found.x0_gradient, *found.kernel_gradients, *found.bias_gradients
