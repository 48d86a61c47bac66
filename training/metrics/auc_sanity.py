"""Detects faults of a run from its evaluations: divergence, no learning, inverted labels."""

from __future__ import annotations

import math

from training.evaluation import Evaluation
from training.schedule import LearningRateSchedule
from training.telemetry.journal import Journal

# A model has learned something if its AUC exceeds 0.5 by this. Criteo and the demo data pass it
# within a few hundred steps.
LEAST_GAIN = 0.02
# An AUC this far below 0.5 is not just a model that has learned nothing.
LEAST_INVERSION = 0.05
# A mean log loss in nats above this means divergence: 4 is the log loss of a model that is always
# wrong with a confidence of 98 %. Inverted labels give less, because a calibrated model is rarely
# that confident.
DIVERGED_LOG_LOSS = 4.0
# After fewer steps than this, an AUC below 0.5 may be a transient.
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
    """Returns one line with the problem that an evaluation shows and its likely causes, or None.

    Args:
        evaluation: scores of the test data.
        step: number of training steps before the evaluation.
        schedule: learning-rate schedule of the run.
        folder: folder of the data.
        training_loss: log loss of the last training batch in nats, or None.
    """
    positives, samples = evaluation.positives, evaluation.samples
    if positives in (0, samples):
        return (
            f"the AUC is undefined: all {samples} labels in {folder}/test are "
            f"{1 if positives else 0}"
        )
    guessing = guessing_log_loss(positives, samples)
    if not evaluation.log_loss <= DIVERGED_LOG_LOSS:
        return (
            f"log loss {evaluation.log_loss:.4g} after step {step} (guessing gives {guessing:.2f}; "
            f"AUC {evaluation.auc:.4f}): training has diverged; likely causes: the learning rate "
            f"{schedule(step):.3g} is too high (lower --lr, or raise --warmup_steps), or the dense "
            "values are counts without a logarithm"
        )
    error = standard_error(positives, samples - positives)
    margin = max(LEAST_GAIN, 4 * error)
    if evaluation.auc > 0.5 + margin:
        return None
    found = f"AUC {evaluation.auc:.4f} over {samples} samples after step {step}"
    if step < schedule.warmup_steps:
        return (
            f"{found} is no better than guessing (0.5): warm-up lasts until step "
            f"{schedule.warmup_steps} (the learning rate is {schedule(step):.3g} of "
            f"{schedule.base_rate:.3g})"
        )
    # The model fits the training data, but ranks the test data in inverse order.
    inverted = evaluation.auc < 0.5 - max(LEAST_INVERSION, 4 * error)
    if inverted and training_loss is not None and training_loss < guessing < evaluation.log_loss:
        if step < FEWEST_STEPS:
            return (
                f"{found} is worse than guessing (0.5), but after only {step} steps the cause "
                "cannot be determined"
            )
        return (
            f"{found} is worse than guessing (0.5), and the log loss is {evaluation.log_loss:.4g} "
            f"on test data, {training_loss:.4g} in training (guessing gives {guessing:.2f}); "
            f"likely cause: inverted labels in {folder}/train or {folder}/test (1 is a click)"
        )
    few = f"too few steps ({step}); " if step < FEWEST_STEPS else ""
    return (
        f"{found} is no better than guessing (0.5 +/- {margin:.2g}); likely causes: {few}the "
        f"learning rate {schedule(step):.3g} is too high or too low; labels, dense features and "
        "ids belong to different samples; training and test data have different dictionaries; "
        f"check the data with python3 -m dataset.validate {folder}"
    )


class AucSanityCheck:
    """Warns once per run if an evaluation shows that training goes wrong.

    During warm-up it ignores a low AUC, except at the end of the run.

    Args:
        schedule, folder: see `diagnose`.
        journal: gets the warning.
    """

    def __init__(self, schedule: LearningRateSchedule, folder: str, journal: Journal):
        self._schedule, self._folder, self._journal = schedule, folder, journal
        self._warned = False

    def check(
        self, evaluation: Evaluation, step: int, last: bool, training_loss: float | None = None
    ) -> None:
        """Checks an evaluation; emits the warning if there is a problem.

        Args:
            evaluation: scores of the test data.
            step: number of training steps before the evaluation.
            last: whether this is the last step of the run.
            training_loss: see `diagnose`.
        """
        warming_up = (
            step < self._schedule.warmup_steps
            and not last
            and 0 < evaluation.positives < evaluation.samples
            and evaluation.log_loss <= DIVERGED_LOG_LOSS
        )
        if self._warned or warming_up:
            return
        text = diagnose(evaluation, step, self._schedule, self._folder, training_loss)
        if text is not None:
            self._warned = True
            self._journal.emit("message", text=f"warning: {text}")
