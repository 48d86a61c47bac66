"""Python wrapper of `Dlrm>ScalarsOnDevice`."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ops import loader

# : The most values of one call.
MOST = 32


def scalars_on_device(values: Any, name: str | None = None) -> tf.Tensor:
    """Brings a few numbers of the host to the device, as arguments of a kernel.

    Unlike for a copy from host to GPU, neither waits for the other.

    Args:
        values: [n] float32 in host memory, n <= `MOST`.
        name: of the op.

    Returns:
        [n] float32 in the device's memory.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        tf.errors.InvalidArgumentError: there are more than `MOST` values (on a GPU).
    """
    return loader.load().dlrm_scalars_on_device(values=values, name=name)
