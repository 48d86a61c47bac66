"""Area under the ROC curve from 8000 thresholds over all ranks, as in the SOK DLRM benchmark.

Computes `tf.keras.metrics.AUC(num_thresholds=8000, from_logits=True)` from counts summed over
ranks. The thresholds 0, 1/7999, ... 1 divide probabilities into 7999 bins (i/7999, (i+1)/7999]; 0
is in the first. The trapezoids under the ROC curve of these thresholds equal the Mann-Whitney
statistic with all scores in a bin tied, so integer counts per bin are sufficient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from training.metrics.exact_auc import area, flat

if TYPE_CHECKING:
    from training.runtime.process_group import ProcessGroup

THRESHOLDS = 8000


class BinnedAuc:
    """Counts positives and negatives per bin of the probability; bins have equal width.

    Args:
        thresholds: number of thresholds, one more than the number of bins.
    """

    def __init__(self, thresholds: int = THRESHOLDS):
        self._counts = np.zeros((2, thresholds - 1), np.int64)

    def add(self, logits: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        """Adds samples.

        Args:
            logits: [n] float32; not NaN.
            labels: [n], 0 or 1.

        Raises:
            ValueError: the lengths differ.
        """
        logits, positive = flat(logits, labels)
        with np.errstate(over="ignore"):
            probability = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
        bins = self._counts.shape[1]
        # In float32 as in Keras; a probability equal to a threshold is in the bin below it.
        index = np.fmax(np.ceil(probability * np.float32(bins)) - 1, 0).astype(np.int64)
        for row, chosen in zip(self._counts, (positive, ~positive)):
            row += np.bincount(index[chosen], minlength=bins)

    def result(self, cluster: ProcessGroup) -> float:
        """Returns the area over the samples of all ranks; NaN if all labels are equal."""
        positives, negatives = cluster.all_reduce_sum(self._counts)
        below = np.cumsum(negatives) - negatives
        # In Python's integers: 63 bits hold the product of one bin, but not the sum over all bins.
        doubled = sum(int(p) * int(2 * b + n) for p, b, n in zip(positives, below, negatives))
        return area(doubled, int(positives.sum()), int(negatives.sum()))
