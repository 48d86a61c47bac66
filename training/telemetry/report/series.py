"""Prepares numbers for plots: thins and smooths them, chooses axis limits and units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

# More points per line are not visible.
MAX_POINTS = 400
# Window of the running mean, as a fraction of the line.
_WINDOW = 0.05


def thin(
    x: npt.ArrayLike, y: npt.ArrayLike, weight: npt.ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Averages neighbouring points so that at most `MAX_POINTS` remain.

    Returns:
        (x, y, weight, group size): arrays of m <= n numbers. x is the last of each group, y the
        weighted mean, weight the sum.
    """
    x, y, weight = (np.asarray(values, dtype=np.float64) for values in (x, y, weight))
    if not len(x):
        return x, y, weight, 1
    size = math.ceil(len(x) / MAX_POINTS)
    starts = np.arange(0, len(x), size)
    sums = np.add.reduceat(weight, starts)
    means = np.add.reduceat(weight * y, starts) / np.where(sums > 0, sums, 1.0)
    ends = np.append(starts[1:], len(x)) - 1
    return x[ends], means, sums, size


def running_mean(y: npt.ArrayLike, weight: npt.ArrayLike) -> tuple[np.ndarray, int]:
    """Returns (weighted running means over 5 % of the points, window in points).

    The window is shorter at both ends.
    """
    y, weight = np.asarray(y, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    half = max(1, round(len(y) * _WINDOW / 2))
    sums = np.concatenate([[0.0], np.cumsum(weight)])
    products = np.concatenate([[0.0], np.cumsum(weight * y)])
    at = np.arange(len(y))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(y))
    total = sums[high] - sums[low]
    return (products[high] - products[low]) / np.where(total > 0, total, 1.0), 2 * half + 1


def limits(values: Iterable[float], extra: Sequence[float] = ()) -> tuple[float, float, int]:
    """Returns (low, high, number of values above) of an axis that omits rare high outliers.

    Args:
        values: the lines' values.
        extra: values that the axis must include.
    """
    finite = np.asarray([v for v in values if math.isfinite(v)], dtype=np.float64)
    seen = np.concatenate([finite, np.asarray(list(extra), dtype=np.float64)])
    if not len(seen):
        return 0.0, 1.0, 0
    low, high = seen.min(), seen.max()
    if len(finite) >= 20:
        usual = np.quantile(finite, 0.98)
        spread = usual - np.quantile(finite, 0.02)
        if finite.max() > usual + spread:
            high = max([usual + 0.2 * spread, *extra])
    margin = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    return float(low - margin), float(high + margin), int((finite > high + margin).sum())


def sample_unit(most: float) -> tuple[float, str]:
    """Returns (divisor, name) for numbers of samples up to `most`."""
    for size, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if most >= size:
            return size, f"{name} samples"
    return 1.0, "samples"


def rate_unit(most: float) -> tuple[float, str]:
    """Returns (divisor, name) for samples per second up to `most`."""
    size, name = sample_unit(most)
    return size, f"{name} per second"


def time_unit(most: float) -> tuple[float, str]:
    """Returns (divisor, name) for seconds up to `most`."""
    if most < 180:
        return 1.0, "seconds"
    return (60.0, "minutes") if most < 10800 else (3600.0, "hours")


def byte_unit(most: float) -> tuple[float, str]:
    """Returns (divisor, name) for bytes up to `most`."""
    return (2.0**30, "GiB") if most >= 2**30 else (2.0**20, "MiB")
