"""Tells when a model scores no better than guessing, and where to look for why."""

import math

# What a model must be from 0.5 to have learned something; Criteo's and the demo's pass it within a
# few hundred steps.
LEAST_GAIN = 0.02


def standard_error(positives, negatives):
    """Returns that of the AUC of scores which say nothing of the labels (Mann and Whitney 1947)."""
    return math.sqrt((positives + negatives + 1) / (12 * positives * negatives))


def verdict(evaluation, step, schedule, folder):
    """Returns a line about an AUC that guessing gives, or that is worse or not defined.

    None if it is better.

    Args:
        evaluation: a `training.evaluation.Evaluation`.
        step: after which it was made.
        schedule: the run's `training.schedule.LearningRateSchedule`.
        folder: the data's.
    """
    positives = evaluation.positives
    if _of_one_class(evaluation):
        return (
            f"the AUC is not defined: all {evaluation.samples} labels of {folder}/test are "
            f"{1 if positives else 0}"
        )
    error = standard_error(positives, evaluation.samples - positives)
    margin = max(LEAST_GAIN, 4 * error)
    if evaluation.auc > 0.5 + margin:
        return None
    found = f"AUC {evaluation.auc:.4f} over {evaluation.samples} samples after step {step}"
    if evaluation.auc < 0.5 - margin:
        return (
            f"{found} is worse than guessing: what was learned is turned round in the test data. "
            f"Are the labels of {folder}/train and {folder}/test both 1 for a click?"
        )
    if step < schedule.warmup_steps:
        why = (
            f"the warm-up, which ends at step {schedule.warmup_steps}, is not over (learning rate "
            f"{schedule(step):.3g})"
        )
    else:
        why = (
            f"is the learning rate ({schedule(step):.3g}) too high or too low, do labels, dense "
            "features and ids belong to the same samples, were training and test data made with "
            f"the same dictionaries (python3 -m dataset.validate {folder})?"
        )
    return f"{found} is what guessing gives (0.5, give or take {margin:.2g}): {why}"


def _of_one_class(evaluation):
    return evaluation.positives in (0, evaluation.samples)


class ChanceAlarm:
    """Warns, once, when a model has learned nothing by the time it should have.

    Args:
        schedule, folder: as for `verdict`.
        journal: the run's `training.journal.Journal`.
    """

    def __init__(self, schedule, folder, journal):
        self._schedule, self._folder, self._journal = schedule, folder, journal
        self._told = False

    def look(self, evaluation, step, last):
        """Looks at an evaluation after a step, which may be the run's last."""
        warming_up = step < self._schedule.warmup_steps and not last
        if self._told or (warming_up and not _of_one_class(evaluation)):
            return
        text = verdict(evaluation, step, self._schedule, self._folder)
        if text is not None:
            self._told = True
            self._journal.emit("message", text=f"warning: {text}")
