"""Decides after which steps to evaluate, and records the scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from training.config import EvaluationConfig


class EvaluationSchedule:
    """The steps to evaluate after, and the records of past evaluations.

    Args:
        evaluation: the interval, and the AUC threshold that ends training.
        steps_per_epoch: steps in one epoch.
        last_step: last step of the run. The evaluation after it is never due here.
        records: evaluations of the run that this one resumes: {step, auc, log_loss, samples,
            seconds}.
        has_test_data: if False, no evaluation is due.

    Attributes:
        interval: steps between evaluations; None: only at the end, or never.
        records: one record per evaluation, in order.
    """

    def __init__(
        self,
        evaluation: EvaluationConfig,
        steps_per_epoch: int,
        last_step: int,
        records: Iterable[Mapping[str, Any]] = (),
        *,
        has_test_data: bool,
    ) -> None:
        self._threshold, self._last_step = evaluation.auc_threshold, last_step
        self.interval: int | None = None
        if has_test_data and not evaluation.eval_in_last:
            often = max(1, steps_per_epoch // evaluation.evals_per_epoch)
            self.interval = often if evaluation.eval_interval is None else evaluation.eval_interval
        self.records = list(records)

    def due_after(self, step: int) -> bool:
        """Returns whether an evaluation is due after a step and has not been made yet."""
        return self._planned(step) and not self.made_after(step)

    def made_after(self, step: int) -> bool:
        """Returns whether the last evaluation was made after the step."""
        return bool(self.records) and self.records[-1]["step"] == step

    def passed_after(self, step: int) -> bool:
        """Returns whether the evaluation after a step passed the threshold and ended training."""
        return (
            self._planned(step) and self.made_after(step) and self.passes(self.records[-1]["auc"])
        )

    def passes(self, auc: float | None) -> bool:
        """Returns whether an AUC ends training; None is an undefined AUC."""
        return auc is not None and auc > self._threshold

    def summary(self) -> dict[str, Any]:
        """Returns {"auc", "best_auc", "log_loss"}, each None if there is no such score."""
        last = self.records[-1] if self.records else {}
        scores = [record["auc"] for record in self.records if record["auc"] is not None]
        return {
            "auc": last.get("auc"),
            "best_auc": max(scores, default=None),
            "log_loss": last.get("log_loss"),
        }

    def _planned(self, step: int) -> bool:
        return (
            self.interval is not None and 0 < step < self._last_step and step % self.interval == 0
        )
