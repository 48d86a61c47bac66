"""The rate of a library's matrix products on this machine.

Imports only the standard library, because programs run in several environments.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

#: (m, k, n): a square product, and a layer of the published model at batch 8192.
SHAPES = ((1536, 1536, 1536), (8192, 1024, 1024))
_SMALL = (256, 256, 256)
_LONGEST_SECONDS = 2.0

# (m, k, n) -> function that multiplies [m, k] by [k, n] once and waits.
Maker = Callable[[int, int, int], Callable[[], Any]]


def flops_per_second(make: Maker) -> float:
    """Returns operations per second of the fastest of `SHAPES`, a median of three products.

    Shapes that would take too long (bfloat16 without hardware support) are replaced by a small one.
    """
    best = _rate(make, _SMALL)
    for shape in SHAPES:
        if _operations(shape) / best < _LONGEST_SECONDS:
            best = max(best, _rate(make, shape))
    return best


def _operations(shape: tuple[int, int, int]) -> int:
    m, k, n = shape
    return 2 * m * k * n


def _rate(make: Maker, shape: tuple[int, int, int]) -> float:
    multiply = make(*shape)
    multiply()
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - begin)
    return _operations(shape) / statistics.median(seconds)
