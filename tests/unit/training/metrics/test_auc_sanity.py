"""Evaluations of faulty runs give one warning with likely causes."""

import numpy as np
import pytest

from training.evaluation import Evaluation
from training.metrics.auc_sanity import AucSanityCheck, diagnose, guessing_log_loss, standard_error
from training.schedule import LearningRateSchedule

SCHEDULE = LearningRateSchedule(0.25, warmup_steps=100)


def evaluation(auc, samples=100_000, positives=30_000, log_loss=0.6):
    return Evaluation(auc=auc, log_loss=log_loss, samples=samples, positives=positives, seconds=1.0)


def test_standard_error_equals_the_deviation_of_random_scores(rng):
    for positives, negatives in ((40, 160), (500, 20)):
        ranks = rng.random((3000, positives + negatives)).argsort(axis=1).argsort(axis=1)
        below = ranks[:, :positives].sum(axis=1) - positives * (positives - 1) / 2
        areas = below / (positives * negatives)  # Mann and Whitney's statistic.
        # 3,000 draws give the deviation to 1.3 %; the tolerance is six times that.
        assert standard_error(positives, negatives) == pytest.approx(np.std(areas), rel=0.08)


def test_diagnose_names_causes_of_a_low_auc():
    text = diagnose(evaluation(0.507), 700, SCHEDULE, "/data/x")
    for word in ("0.5070", "100000", "step 700", "rate 0.25", "dataset.validate /data/x"):
        assert word in text
    assert "too few steps" not in text
    brief = LearningRateSchedule(0.25)
    assert "too few steps (20)" in diagnose(evaluation(0.507), 20, brief, "/data/x")


@pytest.mark.parametrize("auc", [0.31, 0.48, 0.507])
def test_diagnose_explains_a_low_auc_by_warm_up(auc):
    text = diagnose(evaluation(auc, log_loss=1.2), 20, SCHEDULE, "/data/x")
    for word in ("warm-up", "step 100", "0.05", "0.25"):
        assert word in text
    assert "labels" not in text


def test_diagnose_names_inverted_labels_only_if_auc_and_log_loss_show_them():
    text = diagnose(evaluation(0.31, log_loss=1.1), 700, SCHEDULE, "/data/x", 0.48)
    for word in ("worse than guessing", "1.1", "0.48", "inverted", "/data/x/train", "/data/x/test"):
        assert word in text
    # 0.47 is below 0.5 by more than sampling noise, but too close for a model that has learned. And
    # a model that does not fit its training data shows nothing about the labels.
    for auc, samples, positives, training_loss in (
        (0.47, 100_000, 30_000, 0.48),
        (0.31, 100, 40, 0.48),
        (0.31, 100_000, 30_000, 0.62),
        (0.31, 100_000, 30_000, None),
    ):
        scored = evaluation(auc, samples, positives, log_loss=1.1)
        text = diagnose(scored, 700, SCHEDULE, "/data/x", training_loss)
        assert "no better than guessing" in text
        assert "inverted" not in text


def test_diagnose_does_not_blame_labels_after_few_steps():
    schedule = LearningRateSchedule(0.25)
    text = diagnose(evaluation(0.31, log_loss=1.1), 10, schedule, "/data/x", 0.48)
    assert "10 steps" in text
    assert "inverted" not in text


@pytest.mark.parametrize("auc", [0.31, 0.5, 0.7])
@pytest.mark.parametrize("step", [20, 700])
@pytest.mark.parametrize("log_loss", [148.0, 29.66, float("inf"), float("nan")])
def test_diagnose_reports_divergence_for_a_huge_log_loss(auc, step, log_loss):
    text = diagnose(evaluation(auc, log_loss=log_loss), step, SCHEDULE, "/data/x", 0.48)
    for word in (f"{log_loss:.4g}", f"step {step}", "diverged", f"{SCHEDULE(step):.3g}", "--lr"):
        assert word in text
    assert "inverted" not in text


def test_guessing_log_loss_is_the_minimum_over_constants(rng):
    samples = int(rng.integers(10, 1000))
    positives = int(rng.integers(1, samples))
    chances = np.linspace(0.0005, 0.9995, 1000)
    rate = positives / samples
    least = (-rate * np.log(chances) - (1 - rate) * np.log(1 - chances)).min()
    assert guessing_log_loss(positives, samples) == pytest.approx(least, abs=1e-3)


def test_diagnose_accepts_a_model_that_has_learned():
    assert diagnose(evaluation(0.53), 700, SCHEDULE, "/data/x") is None
    # With few samples even 0.6 may be chance: four standard errors of 40 and 60 are 0.24.
    assert "0.24" in diagnose(evaluation(0.6, 100, 40), 700, SCHEDULE, "/data/x")
    assert diagnose(evaluation(0.75, 100, 40), 700, SCHEDULE, "/data/x") is None


@pytest.mark.parametrize(("positives", "label"), [(0, 0), (100, 1)])
def test_check_reports_equal_labels_also_during_warm_up(positives, label):
    journal = Journal()
    sanity = AucSanityCheck(SCHEDULE, "/data/x", journal)
    for step in (10, 700):
        sanity.check(evaluation(float("nan"), 100, positives), step, last=False)
    (text,) = journal.messages
    for word in ("undefined", "100 labels", "/data/x/test", f"are {label}"):
        assert word in text


class Journal:
    def __init__(self):
        self.messages = []

    def emit(self, kind, *, text):
        assert kind == "message"
        self.messages.append(text)


def test_check_warns_once_and_not_during_warm_up():
    journal = Journal()
    sanity = AucSanityCheck(SCHEDULE, "/data/x", journal)
    sanity.check(evaluation(0.5), 50, last=False)
    assert journal.messages == []
    sanity.check(evaluation(0.5), 150, last=False)
    sanity.check(evaluation(0.5), 200, last=True)
    (text,) = journal.messages
    assert text.startswith("warning: AUC 0.5000")
    journal = Journal()
    AucSanityCheck(SCHEDULE, "/data/x", journal).check(evaluation(0.5), 50, last=True)
    assert len(journal.messages) == 1


def test_check_reports_divergence_also_during_warm_up():
    journal = Journal()
    sanity = AucSanityCheck(SCHEDULE, "/data/x", journal)
    sanity.check(evaluation(0.42, log_loss=148.0), 50, last=False)
    (text,) = journal.messages
    assert text.startswith("warning: log loss 148 after step 50")
