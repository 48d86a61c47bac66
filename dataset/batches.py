"""How samples are dealt to steps and ranks.

Pure arithmetic, alike for Python integers, NumPy arrays and TensorFlow tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dataset.errors import DatasetError


def local_batch_size(global_batch_size: int, size: int) -> int:
    """Returns the samples of one rank in a full batch.

    Raises:
        DatasetError: the ranks do not divide the global batch, or either is not positive.
    """
    if global_batch_size < 1 or size < 1:
        raise DatasetError(
            f"global batch size {global_batch_size} on {size} ranks: both must be at least 1"
        )
    if global_batch_size % size:
        raise DatasetError(
            f"global batch size {global_batch_size} is not divisible by {size} ranks: choose a "
            f"multiple of {size}, such as {max(1, global_batch_size // size) * size}"
        )
    return global_batch_size // size


def steps(samples: int, global_batch_size: int, drop_remainder: bool) -> int:
    """Returns the steps of one epoch, which are the same on every rank."""
    if drop_remainder:
        return samples // global_batch_size
    return -(-samples // global_batch_size)


def dealt(
    remaining: Any, first: Any, rank: Any, size: int, minimum: Callable[[Any, Any], Any] = min
) -> tuple[Any, Any]:
    """Returns (first sample, count) of one rank's share of `remaining` samples from `first` on.

    Shares are contiguous, in rank order, and differ by one at most: rank r has remaining // size
    samples, and one more where r < remaining % size. A full batch comes out as equal slices.

    Args:
        remaining: samples to deal.
        first: the first of them.
        rank: the rank, or a vector of ranks.
        size: number of ranks.
        minimum: `min` for integers; np.minimum or tf.minimum for what they work on.
    """
    share = remaining // size
    extra = remaining % size
    before = minimum(rank, extra)
    return first + rank * share + before, share + minimum(rank + 1, extra) - before
