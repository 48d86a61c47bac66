"""Exact area under the ROC curve over all ranks.

With P positives and M negatives, AUC = (#{pairs with positive above negative} + half the ties) /
(P M), the Mann-Whitney statistic, counted in integers. The ranks first exchange scores so that each
holds one range of values. Each rank counts the pairs within its range; the number of pairs across
ranges follows from the number of scores in each range.

A rank stores each of its scores once, in 4 bytes, and sorts them in place. With several ranks, a
second array of about the same size holds the received scores during the exchange.
benchmarks/results/training.md has measurements.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from training.runtime.process_group import ProcessGroup

_SPLITTER_SAMPLES = 1024
# 64 MiB, more than malloc ever takes from its heap: a freed block is returned at once, and only the
# filled pages of a block occupy memory.
_BLOCK = 1 << 24
# Number of scores that a rank sends in one exchange, or looks up at a time.
_CHUNK = 1 << 22


class ExactAuc:
    """Collects the scores of this rank; computes the area at the end."""

    def __init__(self):
        self._positives, self._negatives = _Scores(), _Scores()

    def add(self, scores: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        """Adds samples.

        Args:
            scores: [n] float32, logits or probabilities; not NaN.
            labels: [n], 0 or 1.

        Raises:
            ValueError: the lengths differ.
        """
        scores, positive = flat(scores, labels)
        self._positives.append(scores[positive])
        self._negatives.append(scores[~positive])

    def result(self, cluster: ProcessGroup) -> float:
        """Returns the area over the samples of all ranks and discards them.

        NaN if all labels are equal. All ranks must call this method, also those without samples.
        """
        # These arrays are not shared: sort them in place, and free them after their last use.
        pair = [self._positives.take(), self._negatives.take()]
        for scores in pair:
            scores.sort()
        if cluster.size > 1:
            cuts = _cuts(pair[0], pair[1], cluster)
            for index in (0, 1):
                pair[index] = _by_range(pair, index, cuts, cluster)
        counts = np.zeros((cluster.size, 2), np.int64)
        counts[cluster.rank] = [scores.size for scores in pair]
        counts = cluster.all_reduce_sum(counts)
        positives, negatives = pair
        below = int(counts[: cluster.rank, 1].sum())
        # Twice the number of won pairs, so that half a tie is an integer. 63 bits are enough for
        # four billion samples.
        doubled = _doubled_wins(positives, negatives) + 2 * below * positives.size
        (doubled,) = cluster.all_reduce_sum(np.array([doubled], np.int64))
        return area(int(doubled), *counts.sum(axis=0))


class _Scores:
    """A growing float32 array; `take` returns it as one array without copying it completely."""

    def __init__(self):
        self._blocks: list[np.ndarray] = []
        self._used = _BLOCK

    def append(self, values: np.ndarray) -> None:
        while values.size:
            if self._used == _BLOCK:
                self._blocks.append(np.empty(_BLOCK, np.float32))
                self._used = 0
            part = values[: _BLOCK - self._used]
            self._blocks[-1][self._used : self._used + part.size] = part
            self._used += part.size
            values = values[part.size :]

    def take(self) -> np.ndarray:
        """Returns all values as one array and discards them."""
        blocks, self._blocks = self._blocks, []
        used, self._used = self._used, _BLOCK
        if not blocks:
            return np.empty(0, np.float32)
        if len(blocks) == 1:
            return blocks[0][:used]
        joined = np.empty((len(blocks) - 1) * _BLOCK + used, np.float32)
        for begin in range((len(blocks) - 1) * _BLOCK, -1, -_BLOCK):
            joined[begin : begin + _BLOCK] = blocks.pop()[: joined.size - begin]
        return joined


def flat(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns (scores [n] float32, whether each label is 1 [n] bool).

    Raises:
        ValueError: the lengths differ.
    """
    scores = np.ascontiguousarray(scores, np.float32).reshape(-1)
    positive = np.asarray(labels).reshape(-1) > 0.5
    if scores.shape != positive.shape:
        raise ValueError(f"expected one label per score, found {scores.size} and {positive.size}")
    return scores, positive


def area(doubled: int, positives: int, negatives: int) -> float:
    """Returns doubled / (2 P M); NaN if there are no pairs."""
    pairs = int(positives) * int(negatives)
    return doubled / (2 * pairs) if pairs else math.nan


def _doubled_wins(positives: np.ndarray, negatives: np.ndarray) -> int:
    """Returns 2 * #{negative < positive} + #{negative == positive}; both arrays sorted."""
    total = 0
    for begin in range(0, positives.size, _CHUNK):
        part = positives[begin : begin + _CHUNK]
        for side in ("left", "right"):
            total += int(np.searchsorted(negatives, part, side=side).sum(dtype=np.int64))
    return total


def _cuts(positives: np.ndarray, negatives: np.ndarray, cluster: ProcessGroup) -> np.ndarray:
    """Returns N - 1 values that divide the scores of all ranks into N ranges of similar size."""
    count = positives.size + negatives.size
    chosen = []
    if count:
        share = round(_SPLITTER_SAMPLES * positives.size / count)
        for scores, taken in ((positives, share), (negatives, _SPLITTER_SAMPLES - share)):
            # Samples in proportion to the class; each is the middle of an equal part.
            if scores.size:
                chosen.append(scores[(2 * np.arange(taken) + 1) * scores.size // (2 * taken)])
    local = np.concatenate(chosen) if chosen else np.zeros(0, np.float32)
    table = np.zeros((cluster.size, _SPLITTER_SAMPLES + 1))
    # Each sample is weighted by the rank's number of scores; NaN marks unused entries.
    table[cluster.rank] = np.nan
    table[cluster.rank, 0] = count
    table[cluster.rank, 1 : 1 + local.size] = local
    table = cluster.all_reduce_sum(table)
    values, weights = table[:, 1:], np.repeat(table[:, :1], _SPLITTER_SAMPLES, axis=1)
    known = ~np.isnan(values)
    values, weights = values[known], weights[known]
    if not values.size:
        return np.zeros(cluster.size - 1, np.float32)
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    targets = below[-1] * np.arange(1, cluster.size) / cluster.size
    return values[order][np.searchsorted(below, targets)].astype(np.float32)


def _by_range(
    pair: list[np.ndarray], index: int, cuts: np.ndarray, cluster: ProcessGroup
) -> np.ndarray:
    """Returns the sorted scores of all ranks in this rank's range; empties pair[index].

    Scores are exchanged in pieces, so that the buffers of an exchange stay small.
    """
    values, pair[index] = pair[index], np.empty(0, np.float32)
    # Equal scores stay together: a score equal to a cut is in the range below it on every rank.
    bounds = np.array([0, *np.searchsorted(values, cuts, side="right"), values.size])
    counts = np.zeros((cluster.size, cluster.size), np.int64)
    counts[cluster.rank] = np.diff(bounds)
    counts = cluster.all_reduce_sum(counts)
    received = np.empty(int(counts[:, cluster.rank].sum()), np.float32)
    piece, end = max(1, _CHUNK // cluster.size), 0
    for first in range(0, int(counts.max()), piece):
        parts = [
            values[min(begin + first, stop) : min(begin + first + piece, stop)]
            for begin, stop in zip(bounds, bounds[1:])
        ]
        arrived = cluster.alltoallv(parts)
        received[end : end + arrived.size] = arrived
        end += arrived.size
    del values
    received.sort()
    return received
