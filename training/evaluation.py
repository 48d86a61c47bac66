"""Evaluation: every test sample once, over all ranks."""

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
from training.metrics.exact_auc import ExactAuc, ScoresNotFiniteError

if TYPE_CHECKING:
    import tensorflow as tf

    from training.data import Batch, Data
    from training.runtime.process_group import ProcessGroup
    from training.telemetry.journal import Journal

    Forward = Callable[[Batch], tf.Tensor]

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


#: Function (beat, stop) -> `Evaluation`, or None where a rank wanted to stop.
Evaluator = Callable[[Callable[[], None], Callable[[], bool]], Optional[Evaluation]]


def evaluator(
    evaluation: EvaluationConfig,
    forward: Forward,
    data: Data,
    cluster: ProcessGroup,
    journal: Journal | None = None,
) -> Evaluator | None:
    """Returns what scores a job's test data, or None without test data.

    Args:
        evaluation: the metric, and whether test data is kept in memory.
        forward: a `training.step.Forward`.
        data: the job's.
        cluster: the ranks.
        journal: of a job that evaluates often: test data is kept in memory for it.
    """
    if data.test is None:
        return None
    if journal is not None and evaluation.cache_eval_data:
        tell = functools.partial(journal.emit, "message")
        data = dataclasses.replace(data, test=CachedBatches(data.test, cluster, tell))
    return functools.partial(evaluate, forward, data, cluster, auc=evaluation.auc)


def evaluate(
    forward: Forward,
    data: Data,
    cluster: ProcessGroup,
    beat: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
    *,
    auc: str = "exact",
) -> Evaluation | None:
    """Runs the model over test batches and scores it.

    Args:
        forward: a `training.step.Forward`.
        data: a `training.data.Data` with test batches; "valid" says how many of a batch's rows
            are samples, the rest being padding. Every rank has the same number of batches.
        cluster: the ranks (`training.runtime.process_group`).
        beat: called after each batch, as a sign of life.
        stop: returns whether this rank wants to stop. All ranks agree on it every `STOP_INTERVAL`
            batches.
        auc: a name in `METRICS`.

    Returns:
        An `Evaluation`, the same on all ranks but for `seconds`; None, on all ranks, where one
        wanted to stop.

    Raises:
        ScoresNotFiniteError: a logit or a label of any rank is NaN or infinite.
    """
    if data.test is None:
        raise ValueError("there is no test data to evaluate")
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


def _summed_log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the sum of the binary cross-entropies in float64: NaN if a logit is not finite."""
    x = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return float(np.sum(np.maximum(x, 0) - x * labels + np.log1p(np.exp(-np.abs(x)))))
