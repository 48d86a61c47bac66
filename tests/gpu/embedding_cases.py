"""Shapes and ids with which the embedding kernels are checked.

A case is (batch, rows of each table, D, id type, distribution of ids).
"""

import numpy as np

ID_TYPES = (np.int32, np.int64)


def cases(large):
    """Yields cases for every kernel."""
    some = [1000, 3, 1, 40]
    kinds = ("uniform", "zipf", "equal", "bad")
    if not large:  # the emulation is slow
        for kind in kinds:
            yield 35, some, 128, np.int64, kind
        yield from [
            (0, some, 128, np.int32, "uniform"), (1, [7], 128, np.int32, "uniform"),
            (33, [2, 500], 16, np.int32, "bad"), (34, [7], 127, np.int64, "zipf"),
            (5, some, 1, np.int32, "uniform"), (33, [9], 256, np.int64, "equal"),
            (3, [5] * 131, 132, np.int32, "bad"), (2, [5] * 131, 128, np.int64, "uniform"),
        ]  # fmt: skip
        return
    for k, dim in enumerate((128, 16, 127, 1, 256, 132)):
        for id_type in ID_TYPES:
            for kind in kinds:
                yield 4099 if dim == 128 else 515, (some, [2, 5000])[k % 2], dim, id_type, kind
    for batch in (0, 1, 31, 32, 33):
        yield batch, some, 128, np.int32, "uniform"
        yield batch, [7], 64, np.int64, "equal"
    yield 65, [5] * 131, 128, np.int32, "bad"
    yield 65, [5] * 300, 24, np.int64, "uniform"


def atomics_cases(large):
    """Yields further cases for SGD with atomics.

    They have tables on both sides of the limits of shared memory: on a GPU with 228 KiB per
    multiprocessor, as emulated, sums of 226 x 128 floats fit once and half of them twice.
    """
    yield from [
        (300, [226, 227, 113, 114, 2], 128, np.int32, "zipf"),
        (230, [219, 220, 109], 132, np.int64, "uniform"),
        (228, [113, 114, 227], 127, np.int32, "bad"),
        (120, [113, 114, 1], 256, np.int64, "zipf"),
        (40, [3, 50], 260, np.int32, "uniform"),
        (1100, [3, 600, 5000], 16, np.int64, "zipf"),
        (600, [64, 700], 24, np.int32, "distinct"),
        (300, [1], 1, np.int32, "equal"),
    ]  # fmt: skip
    if large:  # tables of all GPUs' limits
        for dim in (128, 256, 64, 96):
            for kind in ("uniform", "zipf", "equal", "distinct"):
                yield 4099, [97, 98, 99, 162, 163, 226, 227, 4000, 9000], dim, np.int32, kind
        yield 65_536, [3, 155, 3_000, 100_000], 128, np.int32, "zipf"


def long_cases(large):
    """Yields further cases for sorted updates, with rows that have many gradients."""
    yield from [
        (256, [1], 128, np.int32, "equal"), (257, [1], 128, np.int32, "equal"),
        (1100, [2], 128, np.int64, "uniform"), (900, [1000], 4, np.int32, "zipf"),
        (300, [2, 1], 132, np.int32, "bad"), (300, [2], 256, np.int64, "equal"),
        (300, [1], 127, np.int32, "equal"), (300, [1], 260, np.int32, "equal"),
    ]  # fmt: skip
    if large:
        for dim in (128, 64, 36, 16, 100, 256):
            yield 20_000, [1, 20, 3_000], dim, np.int32, "zipf"
        yield 65_536, [1, 1000], 128, np.int64, "equal"
