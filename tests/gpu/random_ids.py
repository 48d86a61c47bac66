"""Random batches of ids, shared by the harness and ``benchmarks.gpu_step``.

Kinds:

* uniform: every row of a table is equally likely.
* skewed: like click logs, a few rows get most lookups. The row of popularity k = 1, 2, ... has a
  probability proportional to k^-1.2 (the few samples beyond the table start again at the first), so
  that in a table of 40 million rows the most frequent row gets 18 % of the lookups and the first
  100 get 64 %; in a table of three rows the most frequent one gets 43 %. Popular rows are scattered
  over the table, as hashed ids are.
* one row: a batch has the same id for all samples of a table, the worst case for updates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

KINDS = ("uniform", "skewed", "one row")
EXPONENT = 1.2


def draw_ids(
    generator: np.random.Generator, sizes: Sequence[int], batch: int, kind: str
) -> np.ndarray:
    """Returns int32 ids [B, T] for tables of the given numbers of rows.

    Raises:
        ValueError: the kind is not one of `KINDS`.
    """
    shape, rows = (batch, len(sizes)), np.asarray(sizes, np.int64)
    if kind == "uniform":
        ids = generator.integers(0, rows, shape)
    elif kind == "skewed":
        ids = generator.zipf(EXPONENT, shape) % rows * _strides(rows) % rows
    elif kind == "one row":
        ids = np.broadcast_to(generator.integers(0, rows), shape)
    else:
        raise ValueError(f"kind of ids: expected one of {', '.join(KINDS)}, found {kind!r}")
    return ids.astype(np.int32, order="C")  # the launchers take the address of its first element


def _strides(rows: np.ndarray) -> np.ndarray:
    """Returns the distance of popular rows: about 0.618 of the table, and coprime with its size.

    So multiplication permutes the rows, and the first few products are spread evenly.
    """
    strides = []
    for size in rows.tolist():
        stride = max(1, round(size * 0.6180339887))
        while math.gcd(stride, size) != 1:
            stride += 1
        strides.append(stride)
    return np.asarray(strides, np.int64)


def hottest_shares(ids: np.ndarray) -> list[float]:
    """Returns for each table the share of its lookups that go to its most frequent row."""
    return [float(np.unique(column, return_counts=True)[1].max() / len(column)) for column in ids.T]
