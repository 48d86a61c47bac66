"""Python wrappers of `Dlrm>LogLoss` and `Dlrm>AllFinite`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from ops import loader

#: The largest width of the last layer's input.
MOST_WIDTH = 1024
#: The most tensors of one call of `all_finite`.
MOST_TENSORS = 64

_DTYPES = (tf.float32, tf.bfloat16, tf.float16)


class LogLoss(NamedTuple):
    """The loss of a batch, and gradients of scale times the loss.

    Attributes:
        loss: [] float32, the mean over the batch of log(1 + exp(x)) - label x; without the scale.
        hidden_gradient: [B, n] of the type of `hidden`.
        kernel_gradient: [n, 1] float32.
        bias_gradient: [1] float32.
    """

    loss: tf.Tensor
    hidden_gradient: tf.Tensor
    kernel_gradient: tf.Tensor
    bias_gradient: tf.Tensor


def log_loss(
    hidden: Any,
    kernel: Any,
    bias: Any,
    label: Any,
    scale: Any,
    relu: bool,
    name: str | None = None,
) -> LogLoss:
    """Computes the log loss of the logits x = hidden kernel + bias, with all gradients.

    Products and sums are float32; sums are in an order that depends on the shape only. NaN in
    `hidden` makes the loss NaN. The op has no gradient of its own: pass `hidden_gradient` on.

    Args:
        hidden: [B, n], B >= 1 and n from 1 to `MOST_WIDTH`, float32, bfloat16 or float16.
        kernel: [n, 1] float32.
        bias: [1] float32.
        label: [B, 1] float32, from 0 to 1.
        scale: [] float32, factor of the gradients.
        relu: whether `hidden` is the result of a ReLU. Then `hidden_gradient` is the gradient of
            the ReLU's input: 0 where `hidden` is not positive.
        name: of the op.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        TypeError: the type of `hidden` is not supported.
        ValueError: in a graph: a shape is wrong.
        tf.errors.InvalidArgumentError: a shape is wrong.
        tf.errors.NotFoundError: there is no GPU.
    """
    hidden = tf.convert_to_tensor(hidden)
    _check_dtype("log_loss: hidden", hidden.dtype)
    result = loader.load().dlrm_log_loss(
        hidden=hidden, kernel=kernel, bias=bias, label=label, scale=scale, relu=relu, name=name
    )
    return LogLoss(*result)


def all_finite(tensors: Sequence[Any], name: str | None = None) -> tf.Tensor:
    """Checks that no element of some tensors is infinite or NaN, in one pass.

    Args:
        tensors: 1 to `MOST_TENSORS` tensors of any shapes and of one type: float32, bfloat16 or
            float16.
        name: of the op.

    Returns:
        [] bool.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        TypeError: a type is not supported, or types differ.
        ValueError: there is no tensor, or there are too many.
        tf.errors.NotFoundError: there is no GPU.
    """
    converted = [tf.convert_to_tensor(tensor) for tensor in tensors]
    if not 1 <= len(converted) <= MOST_TENSORS:
        raise ValueError(f"all_finite: expected 1 to {MOST_TENSORS} tensors, found "
                         f"{len(converted)}")  # fmt: skip
    for t, tensor in enumerate(converted):
        _check_dtype(f"all_finite: tensor {t}", tensor.dtype)
        if tensor.dtype != converted[0].dtype:
            raise TypeError(
                f"all_finite: tensor {t}: expected {converted[0].dtype.name} like tensor 0, found "
                f"{tensor.dtype.name}"
            )
    return loader.load().dlrm_all_finite(tensors=converted, name=name)


def _check_dtype(what: str, dtype: tf.DType) -> None:
    if dtype not in _DTYPES:
        raise TypeError(
            f"{what}: expected one of {', '.join(d.name for d in _DTYPES)}; found {dtype.name}"
        )
