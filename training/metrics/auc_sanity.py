"""Finds evaluations that show a fault of the run: diverged, learned nothing, inverted labels."""

from __future__ import annotations

import math

from training.evaluation import Evaluation
from training.schedule import LearningRateSchedule
from training.telemetry.journal import Journal

# A model has learned something if its AUC is this far above 0.5; Criteo's and the demo's pass it
# within a few hundred steps.
LEAST_GAIN = 0.02
# An AUC this far below 0.5 is more than a model that has learned nothing gives.
LEAST_INVERSION = 0.05
# Mean log loss, in nats, of a diverged run: what a model gives that is always wrong and 98 % sure
# of it. Inverted labels alone give less: a calibrated model is rarely so sure.
DIVERGED_LOG_LOSS = 4.0
# After fewer steps than this an AUC below 0.5 is a transient of training as likely as a fault.
FEWEST_STEPS = 100


def standard_error(positives: int, negatives: int) -> float:
    """Returns the standard error of the AUC of random scores (Mann and Whitney 1947)."""
    return math.sqrt((positives + negatives + 1) / (12 * positives * negatives))


def guessing_log_loss(positives: int, samples: int) -> float:
    """Returns the log loss of a model that always predicts the share of positives, in nats."""
    shares = (positives / samples, 1 - positives / samples)
    return -sum(share * math.log(share) for share in shares if share > 0)


def diagnose(
    evaluation: Evaluation,
    step: int,
    schedule: LearningRateSchedule,
    folder: str,
    training_loss: float | None = None,
) -> str | None:
    """Returns a line about what is wrong with an evaluation and its likely causes, or None.

    Args:
        evaluation: of the test data.
        step: number of steps that the model has been trained.
        schedule: the run's.
        folder: the data's.
        training_loss: log loss of the last training batch, in nats, or None.
    """
    positives, samples = evaluation.positives, evaluation.samples
    if positives in (0, samples):
        return (
            f"the AUC is not defined: all {samples} labels of {folder}/test are "
            f"{1 if positives else 0}"
        )
    guessing = guessing_log_loss(positives, samples)
    if not evaluation.log_loss <= DIVERGED_LOG_LOSS:
        return (
            f"log loss {evaluation.log_loss:.4g} after step {step} (guessing gives {guessing:.2f}, "
            f"AUC {evaluation.auc:.4f}): training has diverged; likely causes: a learning rate "
            f"that is too high ({schedule(step):.3g}: lower --lr, or lengthen --warmup_steps), or "
            "dense values that are counts without a logarithm"
        )
    error = standard_error(positives, samples - positives)
    margin = max(LEAST_GAIN, 4 * error)
    if evaluation.auc > 0.5 + margin:
        return None
    found = f"AUC {evaluation.auc:.4f} over {samples} samples after step {step}"
    if step < schedule.warmup_steps:
        return (
            f"{found} is no better than guessing (0.5): warm-up is not over: it ends at step "
            f"{schedule.warmup_steps} (learning rate {schedule(step):.3g} of "
            f"{schedule.base_rate:.3g})"
        )
    # Scores that rank the test data the wrong way round, of a model that fits its training data.
    inverted = evaluation.auc < 0.5 - max(LEAST_INVERSION, 4 * error)
    if inverted and training_loss is not None and training_loss < guessing < evaluation.log_loss:
        if step < FEWEST_STEPS:
            return f"{found} is worse than guessing (0.5), but {step} steps are too few to say why"
        return (
            f"{found} is worse than guessing (0.5), with a log loss of {evaluation.log_loss:.4g} "
            f"against {training_loss:.4g} in training (guessing gives {guessing:.2f}): likely "
            f"cause: inverted labels in {folder}/train or {folder}/test (1 must be a click in both)"
        )
    few = f"too few steps ({step}), " if step < FEWEST_STEPS else ""
    return (
        f"{found} is no better than guessing (0.5, give or take {margin:.2g}): likely causes: "
        f"{few}a learning rate ({schedule(step):.3g}) that is too high or too low; labels, dense "
        "features and ids of different samples; training and test data made with different "
        f"dictionaries (check with python3 -m dataset.validate {folder})"
    )


class AucSanityCheck:
    """Warns, once, when an evaluation shows that a model is not learning what it should.

    During warm-up it reports only what warm-up does not explain, except at the run's end.

    Args:
        schedule, folder: as for `diagnose`.
        journal: the run's journal.
    """

    def __init__(self, schedule: LearningRateSchedule, folder: str, journal: Journal):
        self._schedule, self._folder, self._journal = schedule, folder, journal
        self._warned = False

    def check(
        self, evaluation: Evaluation, step: int, last: bool, training_loss: float | None = None
    ) -> None:
        """Checks an evaluation after a step, which may be the run's last.

        `training_loss` as for `diagnose`.
        """
        explained = (
            step < self._schedule.warmup_steps
            and not last
            and 0 < evaluation.positives < evaluation.samples
            and evaluation.log_loss <= DIVERGED_LOG_LOSS
        )
        if self._warned or explained:
            return
        text = diagnose(evaluation, step, self._schedule, self._folder, training_loss)
        if text is not None:
            self._warned = True
            self._journal.emit("message", text=f"warning: {text}")
