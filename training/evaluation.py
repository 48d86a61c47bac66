"""Evaluation: every test sample once, over all ranks."""

import dataclasses
import time

import numpy as np

from training.auc import exact_auc


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one pass over the test data gave.

    Attributes:
        auc: area under the ROC curve over all samples of all ranks.
        log_loss: mean binary cross-entropy, natural logarithm.
        samples: number of samples over all ranks.
        seconds: wall-clock time of the pass.
    """

    auc: float
    log_loss: float
    samples: int
    seconds: float


def evaluate(forward, data, cluster, beat=lambda: None):
    """Runs the model over test batches and scores it.

    Args:
        forward: a `training.step.Forward`.
        data: a `training.data.Data` with test batches; "valid" says how many of a batch's rows
            are samples, the rest being padding. Every rank has the same number of batches.
        cluster: the ranks (`training.cluster`).
        beat: called after each batch, as a sign of life.

    Returns:
        An `Evaluation`, the same on all ranks but for `seconds`.
    """
    begin = time.perf_counter()
    logits, labels = [], []
    for batch in data.test():
        valid = int(batch["valid"])
        logits.append(forward(batch).numpy()[:valid, 0])
        labels.append(batch["label"].numpy()[:valid, 0].astype(np.int8))
        beat()
    logits = np.concatenate(logits) if logits else np.zeros(0, np.float32)
    labels = np.concatenate(labels) if labels else np.zeros(0, np.int8)
    auc = exact_auc(logits, labels, cluster)
    loss, samples = cluster.sum([_summed_log_loss(logits, labels), float(labels.size)])
    return Evaluation(
        auc=auc,
        log_loss=float(loss / samples) if samples else float("nan"),
        samples=int(samples),
        seconds=time.perf_counter() - begin,
    )


def _summed_log_loss(logits, labels, chunk=1 << 20):
    """Returns the sum of the binary cross-entropies in float64, in chunks to bound memory."""
    total = 0.0
    for begin in range(0, logits.size, chunk):
        x = logits[begin : begin + chunk].astype(np.float64)
        z = labels[begin : begin + chunk]
        total += float(np.sum(np.maximum(x, 0) - x * z + np.log1p(np.exp(-np.abs(x)))))
    return total
