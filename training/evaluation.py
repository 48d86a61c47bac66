"""Scores every test sample once, over all ranks."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Optional

import numpy as np

from training.config import EvaluationConfig
from training.evaluation_cache import CachedBatches
from training.metrics.binned_auc import BinnedAuc
from training.metrics.exact_auc import ExactAuc

if TYPE_CHECKING:
    import tensorflow as tf

    from training.data import Batch, Data
    from training.runtime.process_group import ProcessGroup
    from training.telemetry.journal import Journal

    Forward = Callable[[Batch], tf.Tensor]

# {value of --auc: metric}
METRICS = {"exact": ExactAuc, "binned": BinnedAuc}
# The ranks agree on whether to stop once in this many batches.
STOP_INTERVAL = 32


class ScoresNotFiniteError(ValueError):
    """A score or label is NaN or infinite, so that the AUC is undefined."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The scores of one pass over the test data.

    Attributes:
        auc: area under the ROC curve over all samples of all ranks.
        log_loss: mean binary cross-entropy, natural logarithm.
        samples: number of samples over all ranks.
        positives: number of samples with label 1.
        seconds: wall-clock time of the pass.
    """

    auc: float
    log_loss: float
    samples: int
    positives: int
    seconds: float


#: Function (heartbeat, stop) -> `Evaluation`, or None if a rank requested to stop.
Evaluator = Callable[[Callable[[], None], Callable[[], bool]], Optional[Evaluation]]


def evaluator(
    evaluation: EvaluationConfig,
    forward: Forward,
    data: Data,
    cluster: ProcessGroup,
    journal: Journal,
) -> Evaluator | None:
    """Returns a function that scores the test data of a job, or None if there is none.

    Args:
        evaluation: the metric, and whether to keep test data in memory.
        forward: a `training.step.Forward`.
        data: the data of the job.
        cluster: the ranks.
        journal: gets a message if the test data does not fit into memory.
    """
    if data.test is None:
        return None
    if evaluation.cache_eval_data:
        report = functools.partial(journal.emit, "message")
        data = dataclasses.replace(data, test=CachedBatches(data.test, cluster, report))
    return functools.partial(evaluate, forward, data, cluster, auc=evaluation.auc)


def evaluate(
    forward: Forward,
    data: Data,
    cluster: ProcessGroup,
    heartbeat: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
    *,
    auc: str = "exact",
) -> Evaluation | None:
    """Runs the model over the test batches and computes the scores.

    Args:
        forward: a `training.step.Forward`.
        data: a `training.data.Data` with test batches. "valid" in a batch is its number of samples;
            the other rows are padding. Every rank has the same number of batches.
        cluster: the ranks.
        heartbeat: called after each batch.
        stop: returns whether this rank requests to stop. The ranks agree on it every
            `STOP_INTERVAL` batches.
        auc: a name in `METRICS`.

    Returns:
        An `Evaluation`, equal on all ranks except for `seconds`; None on all ranks if one requested
        to stop.

    Raises:
        ScoresNotFiniteError: a logit or label on any rank is NaN or infinite.
        ValueError: there is no test data.
    """
    if data.test is None:
        raise ValueError("expected test data, found none")
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
        heartbeat()
    loss, samples, positives, invalid = cluster.all_reduce_sum(
        [loss, float(samples), positives, float(invalid)]
    )
    if invalid:
        raise ScoresNotFiniteError(
            f"the AUC is undefined: {invalid:.0f} of {samples:.0f} test samples have a score or "
            "label that is NaN or infinite"
        )
    score = metric.result(cluster)
    return Evaluation(
        auc=score,
        log_loss=float(loss / samples) if samples else float("nan"),
        samples=int(samples),
        positives=int(positives),
        seconds=time.perf_counter() - begin,
    )


def _summed_log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the sum of the binary cross-entropies in float64; NaN if a logit is not finite."""
    x = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return float(np.sum(np.maximum(x, 0) - x * labels + np.log1p(np.exp(-np.abs(x)))))
