"""Evaluation: every test sample once, over all ranks."""

import dataclasses
import time

import numpy as np

from training.metrics.binned_auc import BinnedAuc
from training.metrics.exact_auc import ExactAuc, ScoresNotFiniteError

# What --auc chooses from.
METRICS = {"exact": ExactAuc, "binned": BinnedAuc}
# Batches between agreements on a request to stop: the longest that one waits.
STOP_INTERVAL = 32


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one pass over the test data gave.

    Attributes:
        auc: area under the ROC curve over all samples of all ranks.
        log_loss: mean binary cross-entropy, natural logarithm.
        samples: number of samples over all ranks.
        positives: those whose label is 1.
        seconds: wall-clock time of the pass.
    """

    auc: float
    log_loss: float
    samples: int
    positives: int
    seconds: float


def evaluate(forward, data, cluster, beat=lambda: None, stop=lambda: False, *, auc="exact"):
    """Runs the model over test batches and scores it.

    Args:
        forward: a `training.step.Forward`.
        data: a `training.data.Data` with test batches; "valid" says how many of a batch's rows
            are samples, the rest being padding. Every rank has the same number of batches.
        cluster: the ranks (`training.runtime.process_group`).
        beat: called after each batch, as a sign of life.
        stop: tells whether this rank wants to stop. All ranks agree on it every `STOP_INTERVAL`
            batches.
        auc: a name in `METRICS`.

    Returns:
        An `Evaluation`, the same on all ranks but for `seconds`; None, on all ranks, where one
        wanted to stop.

    Raises:
        ScoresNotFiniteError: a logit or a label of any rank is NaN or infinite.
    """
    begin = time.perf_counter()
    metric, loss, samples, positives, invalid = METRICS[auc](), 0.0, 0, 0.0, 0
    for index, batch in enumerate(data.test()):
        if index % STOP_INTERVAL == 0 and cluster.all_reduce_sum([float(stop())])[0]:
            return None
        valid = int(batch["valid"])
        logits = forward(batch).numpy()[:valid, 0]
        labels = batch["label"].numpy()[:valid, 0]
        invalid += valid - int(np.count_nonzero(np.isfinite(logits) & np.isfinite(labels)))
        metric.add(logits, labels)
        loss += _summed_log_loss(logits, labels)
        samples += valid
        positives += float(labels.sum(dtype=np.float64))
        beat()
    loss, samples, positives, invalid = cluster.all_reduce_sum(
        [loss, float(samples), positives, float(invalid)]
    )
    if invalid:
        raise ScoresNotFiniteError(
            f"the AUC is not defined: the score or label of {invalid:.0f} of {samples:.0f} samples "
            "is NaN or infinite"
        )
    score = metric.result(cluster)
    return Evaluation(
        auc=score,
        log_loss=float(loss / samples) if samples else float("nan"),
        samples=int(samples),
        positives=int(positives),
        seconds=time.perf_counter() - begin,
    )


def _summed_log_loss(logits, labels):
    """Returns the sum of the binary cross-entropies in float64: NaN if a logit is not finite."""
    x = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return float(np.sum(np.maximum(x, 0) - x * labels + np.log1p(np.exp(-np.abs(x)))))
