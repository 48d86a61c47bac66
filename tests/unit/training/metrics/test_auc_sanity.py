"""Evaluations of faulty runs are reported with their likely causes."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.support import launch
from training.evaluation import Evaluation
from training.metrics.auc_sanity import AucSanityCheck, diagnose, guessing_log_loss, standard_error
from training.schedule import LearningRateSchedule

SCHEDULE = LearningRateSchedule(0.25, warmup_steps=100)


def evaluation(auc, samples=100_000, positives=30_000, log_loss=0.6):
    return Evaluation(auc=auc, log_loss=log_loss, samples=samples, positives=positives, seconds=1.0)


def test_the_standard_error_is_that_of_random_scores():
    random = np.random.default_rng()
    for positives, negatives in ((40, 160), (500, 20)):
        labels = np.repeat([1, 0], [positives, negatives])
        areas = [roc_auc_score(labels, random.random(labels.size)) for _ in range(3000)]
        # Of 3,000 draws the deviation is known to 1.3 %; six of these.
        assert standard_error(positives, negatives) == pytest.approx(np.std(areas), rel=0.08)


def test_no_better_than_guessing_names_likely_causes():
    text = diagnose(evaluation(0.507), 700, SCHEDULE, "/data/x")
    assert "AUC 0.5070 over 100000 samples after step 700 is no better than guessing" in text
    assert "learning rate (0.25)" in text
    assert "python3 -m dataset.validate /data/x" in text
    assert "too few steps" not in text
    brief = LearningRateSchedule(0.25)
    assert "too few steps (20)" in diagnose(evaluation(0.507), 20, brief, "/data/x")


@pytest.mark.parametrize("auc", [0.31, 0.48, 0.507])
def test_warm_up_explains_any_auc_that_is_not_better_than_guessing(auc):
    text = diagnose(evaluation(auc, log_loss=1.2), 20, SCHEDULE, "/data/x")
    assert "warm-up is not over: it ends at step 100 (learning rate 0.05 of 0.25)" in text
    assert "labels" not in text


def test_inverted_labels_are_named_only_when_auc_and_log_loss_show_them():
    text = diagnose(evaluation(0.31, log_loss=1.1), 700, SCHEDULE, "/data/x", 0.48)
    assert "worse than guessing (0.5), with a log loss of 1.1 against 0.48 in training" in text
    assert "inverted labels in /data/x/train or /data/x/test" in text
    # 0.47 is below 0.5 by more than the sampling noise, but no model that learned gives it.
    # Nor does a model that has not learned its training data say anything of the test labels.
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


def test_ten_steps_without_warm_up_are_too_few_to_blame_the_labels():
    schedule = LearningRateSchedule(0.25)
    text = diagnose(evaluation(0.31, log_loss=1.1), 10, schedule, "/data/x", 0.48)
    assert "10 steps are too few to say why" in text
    assert "inverted" not in text


@pytest.mark.parametrize("auc", [0.31, 0.5, 0.7])
@pytest.mark.parametrize("step", [20, 700])
@pytest.mark.parametrize("log_loss", [148.0, 29.66, float("inf"), float("nan")])
def test_a_huge_log_loss_is_a_diverged_run_whatever_the_auc(auc, step, log_loss):
    text = diagnose(evaluation(auc, log_loss=log_loss), step, SCHEDULE, "/data/x", 0.48)
    assert f"log loss {log_loss:.4g} after step {step} (guessing gives 0.61" in text
    assert "training has diverged" in text
    assert f"({SCHEDULE(step):.3g}: lower --lr" in text
    assert "inverted" not in text


def test_the_guessing_log_loss_is_the_least_of_any_constant():
    random = np.random.default_rng(5)
    samples = int(random.integers(10, 1000))
    positives = int(random.integers(1, samples))
    chances = np.linspace(0.0005, 0.9995, 1000)
    rate = positives / samples
    least = (-rate * np.log(chances) - (1 - rate) * np.log(1 - chances)).min()
    assert guessing_log_loss(positives, samples) == pytest.approx(least, abs=1e-3)


def test_a_model_that_has_learned_is_not_reported():
    assert diagnose(evaluation(0.53), 700, SCHEDULE, "/data/x") is None
    # Of few samples even 0.6 may be chance: four standard errors of 40 and 60 are 0.24.
    assert "give or take 0.24" in diagnose(evaluation(0.6, 100, 40), 700, SCHEDULE, "/data/x")
    assert diagnose(evaluation(0.75, 100, 40), 700, SCHEDULE, "/data/x") is None


@pytest.mark.parametrize(("positives", "label"), [(0, 0), (100, 1)])
def test_of_one_class_there_is_no_area(positives, label):
    """Which no warm-up explains."""
    journal = Journal()
    sanity = AucSanityCheck(SCHEDULE, "/data/x", journal)
    for step in (10, 700):
        sanity.check(evaluation(float("nan"), 100, positives), step, last=False)
    text = f"warning: the AUC is not defined: all 100 labels of /data/x/test are {label}"
    assert journal.said == [text]


class Journal:
    def __init__(self):
        self.said = []

    def emit(self, kind, *, text):
        assert kind == "message"
        self.said.append(text)


def test_it_is_said_once_and_not_while_warming_up():
    journal = Journal()
    sanity = AucSanityCheck(SCHEDULE, "/data/x", journal)
    sanity.check(evaluation(0.5), 50, last=False)
    assert journal.said == []
    sanity.check(evaluation(0.5), 150, last=False)
    sanity.check(evaluation(0.5), 200, last=True)
    (said,) = journal.said
    assert said.startswith("warning: AUC 0.5000")
    journal = Journal()
    AucSanityCheck(SCHEDULE, "/data/x", journal).check(evaluation(0.5), 50, last=True)
    assert len(journal.said) == 1


def test_a_diverged_run_is_reported_during_warm_up_too():
    journal = Journal()
    sanity = AucSanityCheck(SCHEDULE, "/data/x", journal)
    sanity.check(evaluation(0.42, log_loss=148.0), 50, last=False)
    (said,) = journal.said
    assert said.startswith("warning: log loss 148 after step 50")


def test_a_run_that_learns_nothing_says_so(small_dataset, tmp_path):
    done = launch.run(
        1, "main.py", f"--data_dir={small_dataset}", "--global_batch_size=500", "--lr=1e-9",
        "--embedding_dim=8", "--bottom_mlp=16,8", "--top_mlp=16,1", "--eval_in_last",
        "--warmup_steps=0", f"--run_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if "no better than guessing" in line]
    assert len(said) == 1, done.stdout
    assert "warning: AUC 0." in said[0]
    assert f"python3 -m dataset.validate {small_dataset}" in said[0]
