"""Bags of ids with which the embedding kernels are checked."""

from typing import Any, NamedTuple, Optional

import numpy as np

from ops.bags import Bags

#: Ids per sample and table of the MLPerf benchmark DLRM-DCNv2.
DCNV2_HOTNESS = (
    3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1,
)  # fmt: skip
#: Rows of its tables, at most 2,000.
_DCNV2_ROWS = (
    2000, 2000, 2000, 2000, 2000, 3, 2000, 1543, 63, 2000, 2000, 2000, 10, 2000, 2000, 155, 4, 976,
    14, 2000, 2000, 2000, 2000, 2000, 108, 36,
)  # fmt: skip


class BagCase(NamedTuple):
    """A batch of bags.

    Attributes:
        batch: B.
        sizes: rows of each table.
        bags: their slots; None: bags of any length, of one table.
        dim: D.
        id_type: numpy.int32 or numpy.int64.
        ids: distribution, as in `embedding_checks.Problem`.
    """

    batch: int
    sizes: "tuple[int, ...]"
    bags: Optional[Bags]
    dim: int
    id_type: Any
    ids: str = "uniform"


def cases(large, many_columns=True):
    """Yields cases for every kernel.

    Args:
        large: for a GPU; the emulation is slow.
        many_columns: False: without the batches of a few samples with many ids, which take the
            emulated SGD with atomics seconds.
    """
    some, mixed = (1000, 3, 1, 40), Bags.of((1, 8, 2, 3))
    lists = Bags.of((5, 1, 8, 3), ("mean", "sum", "mean", "sum"), (True, True, False, True))
    dcnv2 = Bags.of(DCNV2_HOTNESS)
    yield from [
        BagCase(0, some, mixed, 128, np.int32),
        BagCase(35, some, mixed, 128, np.int64, "zipf"),
        BagCase(5, (500,), Bags.of((100,)), 128, np.int64, "bad"),
        BagCase(4, (20, 9), Bags.of((100, 1), "mean"), 16, np.int32, "zipf"),
        BagCase(33, some, lists, 128, np.int32, "zipf"),
        BagCase(17, some, lists, 127, np.int64, "bad"),
        BagCase(7, some, lists, 260, np.int32, "equal"),
        BagCase(3, (9, 7), Bags.of((70, 3), "mean", (True, True)), 1, np.int64),
        BagCase(70, (300,), None, 128, np.int64, "zipf"),
        BagCase(9, (40,), None, 24, np.int32, "bad"),
        BagCase(1, (7,), None, 128, np.int32),
    ]
    if many_columns:
        yield BagCase(2, _DCNV2_ROWS, dcnv2, 128, np.int32, "zipf")
        yield BagCase(2, (5,) * 131, Bags.of((1, 2) * 65 + (1,), "mean"), 132, np.int32, "bad")
    if not large:
        return
    for dim in (128, 16, 127, 256, 132):
        for id_type in (np.int32, np.int64):
            for ids in ("uniform", "zipf", "equal", "bad"):
                batch = 2049 if dim == 128 else 515
                yield BagCase(batch, some, lists, dim, id_type, ids)
                yield BagCase(batch, (5000,), None, dim, id_type, ids)
    for hotness in (1, 8, 100):
        for pooling in ("sum", "mean"):
            yield BagCase(1031, (5000, 3, 70), Bags.of((hotness,) * 3, pooling), 128, np.int32)
            variable = Bags.of((hotness,) * 3, pooling, (True,) * 3)
            yield BagCase(1031, (5000, 3, 70), variable, 128, np.int32, "zipf")
    for ids in ("uniform", "zipf"):
        yield BagCase(1024, _DCNV2_ROWS, dcnv2, 128, np.int32, ids)
    yield BagCase(65, (5,) * 300, Bags.of((4,) * 300), 24, np.int64)


def long_cases(large):
    """Yields further cases for sorted updates, with rows that have many gradients."""
    for pooling in ("sum", "mean"):
        yield from [
            BagCase(40, (1,), Bags.of((8,), pooling), 128, np.int32, "equal"),
            BagCase(90, (2, 9), Bags.of((8, 2), pooling, (True, False)), 132, np.int64, "bad"),
            BagCase(3, (1,), Bags.of((100,), pooling), 127, np.int32, "equal"),
        ]
    if large:
        for dim in (128, 64, 36, 16, 100, 256):
            yield BagCase(5000, (1, 20, 3000), Bags.of((8, 3, 20), "mean"), dim, np.int32, "zipf")
        yield BagCase(30_000, (100,), None, 128, np.int32, "zipf")
