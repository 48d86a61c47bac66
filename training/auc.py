"""Area under the ROC curve, exact or binned, over all ranks.

Exact: with P positives and M negatives, AUC = (#{pairs with positive above negative} + half the
ties) / (P M), the Mann-Whitney statistic, counted in integers. The ranks first exchange scores so
that each holds one range of values; a rank then counts the pairs within its range, and pairs
across ranges follow from the counts alone. A rank sorts and holds about 1/N of all scores, 5
bytes and one copy each.
"""

import math

import numpy as np

_SPLITTER_SAMPLES = 1024


class ScoresNotFiniteError(ValueError):
    """A score is NaN, so that it has no order."""


def exact_auc(scores, labels, cluster=None):
    """Returns the area under the ROC curve over all ranks' samples.

    Args:
        scores: [n] float32, this rank's scores: logits or probabilities, higher is more positive.
        labels: [n], 0 or 1.
        cluster: the ranks (see `training.cluster`), None for this process alone. A rank may have
            no samples; every rank must call.

    Returns:
        A float, the same on all ranks; NaN where all labels are equal.

    Raises:
        ScoresNotFiniteError: a score of any rank is NaN.
        ValueError: the lengths differ.
    """
    scores = np.ascontiguousarray(scores, np.float32).reshape(-1)
    labels = np.asarray(labels).reshape(-1) > 0.5
    if scores.shape != labels.shape:
        raise ValueError(f"{scores.size} scores but {labels.size} labels")
    invalid = int(np.isnan(scores).sum())
    if cluster is not None and cluster.size > 1:
        invalid = int(cluster.sum(np.array([invalid], np.int64))[0])
    if invalid:
        raise ScoresNotFiniteError(f"{invalid} scores are NaN: the AUC is not defined")
    positives, negatives = np.sort(scores[labels]), np.sort(scores[~labels])
    if cluster is not None and cluster.size > 1:
        positives, negatives = _by_range(positives, negatives, cluster)
        counts = np.zeros((cluster.size, 2), np.int64)
        counts[cluster.rank] = positives.size, negatives.size
        counts = cluster.sum(counts)
    else:
        counts = np.array([[positives.size, negatives.size]], np.int64)
    rank = 0 if cluster is None else cluster.rank
    below = int(counts[:rank, 1].sum())
    # Twice the number of won pairs, so that a tie's half stays an integer; 63 bits are enough for
    # four billion samples.
    doubled = _doubled_wins(positives, negatives) + 2 * below * positives.size
    if cluster is not None and cluster.size > 1:
        doubled = int(cluster.sum(np.array([doubled], np.int64))[0])
    total_positives, total_negatives = (int(count) for count in counts.sum(axis=0))
    if not total_positives or not total_negatives:
        return math.nan
    return doubled / (2 * total_positives * total_negatives)


def _doubled_wins(positives, negatives, chunk=1 << 22):
    """Returns 2 * #{negative < positive} + #{negative == positive}; both arrays sorted."""
    total = 0
    for begin in range(0, positives.size, chunk):
        part = positives[begin : begin + chunk]
        total += int(np.searchsorted(negatives, part, side="left").sum(dtype=np.int64))
        total += int(np.searchsorted(negatives, part, side="right").sum(dtype=np.int64))
    return total


def _by_range(positives, negatives, cluster):
    """Exchanges sorted scores so that rank r holds the r-th range of values; sorts them again."""
    everything = np.concatenate([positives, negatives])
    sample = np.full(_SPLITTER_SAMPLES, np.nan)
    if everything.size:
        positions = np.linspace(0, everything.size - 1, _SPLITTER_SAMPLES).astype(np.int64)
        everything.sort()
        sample = everything[positions].astype(np.float64)
    table = np.zeros((cluster.size, _SPLITTER_SAMPLES))
    table[cluster.rank] = sample
    samples = cluster.sum(table).reshape(-1)
    samples = np.sort(samples[~np.isnan(samples)]).astype(np.float32)
    if not samples.size:
        return positives, negatives
    cuts = samples[np.arange(1, cluster.size) * samples.size // cluster.size]

    def exchanged(values):
        # Equal scores never part: a cut value goes to the range below it, on every rank.
        bounds = [0, *np.searchsorted(values, cuts, side="right"), values.size]
        parts = [values[bounds[k] : bounds[k + 1]] for k in range(cluster.size)]
        return np.sort(cluster.exchange(parts))

    return exchanged(positives), exchanged(negatives)
