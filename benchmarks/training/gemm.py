"""How fast matrix products can be on this machine, by whichever library is asked.

Standard library alone, since programs live in several environments.
"""

import statistics
import time

#: (m, k, n): a square one, and a layer of the published model at batch 8192.
SHAPES = ((1536, 1536, 1536), (8192, 1024, 1024))
_SMALL = (256, 256, 256)
_LONGEST_SECONDS = 2.0


def flops_per_second(make, repetitions=3):
    """Returns operations per second at the best of `SHAPES`, each the median of the repetitions.

    Where a library would take too long over a shape (bfloat16 without a unit for it), a small
    product stands for all.

    Args:
        make: function (m, k, n) -> function that multiplies [m, k] by [k, n] once and waits.
        repetitions: timed products of each shape.
    """
    best = _rate(make, _SMALL, repetitions)
    for shape in SHAPES:
        if _operations(shape) / best < _LONGEST_SECONDS:
            best = max(best, _rate(make, shape, repetitions))
    return best


def _operations(shape):
    m, k, n = shape
    return 2 * m * k * n


def _rate(make, shape, repetitions):
    multiply = make(*shape)
    multiply()
    seconds = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - begin)
    return _operations(shape) / statistics.median(seconds)
