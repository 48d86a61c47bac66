"""How samples are divided among steps and ranks.

Pure arithmetic, for Python integers, NumPy arrays and TensorFlow tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dataset.errors import DatasetError


def local_batch_size(global_batch_size: int, size: int) -> int:
    """Returns the number of samples of one rank in a full batch.

    Raises:
        DatasetError: the ranks do not divide the global batch, or a number is not positive.
    """
    if global_batch_size < 1 or size < 1:
        raise DatasetError(
            f"global batch size and number of ranks: expected at least 1 each, found "
            f"{global_batch_size} and {size}",
            found=min(global_batch_size, size),
            bound=1,
        )
    if global_batch_size % size:
        raise DatasetError(
            f"global batch size: expected a multiple of the number of ranks ({size}), found "
            f"{global_batch_size}; try {max(1, global_batch_size // size) * size}",
            found=global_batch_size,
            bound=size,
        )
    return global_batch_size // size


def steps(samples: int, global_batch_size: int, drop_remainder: bool) -> int:
    """Returns the number of steps of one epoch, which is the same on every rank."""
    if drop_remainder:
        return samples // global_batch_size
    return -(-samples // global_batch_size)


def partition(
    remaining: Any, first: Any, rank: Any, size: int, minimum: Callable[[Any, Any], Any] = min
) -> tuple[Any, Any]:
    """Returns (first sample, count) of one rank's share of `remaining` samples from `first` on.

    Shares are contiguous, in rank order, and differ by at most one sample: rank r has
    remaining // size samples, and one more if r < remaining % size. Slices of a full batch are
    equal.

    Args:
        remaining: number of samples to divide.
        first: index of the first one.
        rank: the rank, or a vector of ranks.
        size: number of ranks.
        minimum: `min` for integers, np.minimum for arrays, tf.minimum for tensors.
    """
    share = remaining // size
    extra = remaining % size
    before = minimum(rank, extra)
    return first + rank * share + before, share + minimum(rank + 1, extra) - before
