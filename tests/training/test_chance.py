"""A model that scores as guessing does is said to have learned nothing."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests import launch
from training.chance import ChanceAlarm, standard_error, verdict
from training.evaluation import Evaluation
from training.schedule import LearningRateSchedule

SCHEDULE = LearningRateSchedule(0.25, warmup_steps=100)


def evaluation(auc, samples=100_000, positives=30_000):
    return Evaluation(auc=auc, log_loss=0.6, samples=samples, positives=positives, seconds=1.0)


def test_the_standard_error_is_that_of_random_scores():
    random = np.random.default_rng()
    for positives, negatives in ((40, 160), (500, 20)):
        labels = np.repeat([1, 0], [positives, negatives])
        areas = [roc_auc_score(labels, random.random(labels.size)) for _ in range(3000)]
        # Of 3,000 draws the deviation is known to 1.3 %; six of these.
        assert standard_error(positives, negatives) == pytest.approx(np.std(areas), rel=0.08)


def test_what_guessing_gives_is_named_with_what_to_look_at():
    text = verdict(evaluation(0.507), 700, SCHEDULE, "/data/x")
    assert "AUC 0.5070 over 100000 samples after step 700 is what guessing gives" in text
    assert "learning rate (0.25)" in text
    assert "python3 -m dataset.validate /data/x" in text
    text = verdict(evaluation(0.507), 20, SCHEDULE, "/data/x")
    assert "the warm-up, which ends at step 100, is not over (learning rate 0.05)" in text


def test_scores_turned_round_are_another_fault():
    text = verdict(evaluation(0.31), 700, SCHEDULE, "/data/x")
    assert "worse than guessing" in text
    assert "/data/x/train and /data/x/test" in text


def test_what_was_learned_is_no_news():
    assert verdict(evaluation(0.53), 700, SCHEDULE, "/data/x") is None
    # Of few samples even 0.6 may be chance: four standard errors of 40 and 60 are 0.24.
    assert "give or take 0.24" in verdict(evaluation(0.6, 100, 40), 700, SCHEDULE, "/data/x")
    assert verdict(evaluation(0.75, 100, 40), 700, SCHEDULE, "/data/x") is None


@pytest.mark.parametrize(("positives", "label"), [(0, 0), (100, 1)])
def test_of_one_class_there_is_no_area(positives, label):
    """Which no warm-up explains."""
    journal = Journal()
    alarm = ChanceAlarm(SCHEDULE, "/data/x", journal)
    for step in (10, 700):
        alarm.look(evaluation(float("nan"), 100, positives), step, last=False)
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
    alarm = ChanceAlarm(SCHEDULE, "/data/x", journal)
    alarm.look(evaluation(0.5), 50, last=False)
    assert journal.said == []
    alarm.look(evaluation(0.5), 150, last=False)
    alarm.look(evaluation(0.5), 200, last=True)
    (said,) = journal.said
    assert said.startswith("warning: AUC 0.5000")
    journal = Journal()
    ChanceAlarm(SCHEDULE, "/data/x", journal).look(evaluation(0.5), 50, last=True)
    assert len(journal.said) == 1


def test_a_run_that_learns_nothing_says_so(small_dataset, tmp_path):
    done = launch.run(
        1, "main.py", f"--data_dir={small_dataset}", "--global_batch_size=500", "--lr=1e-9",
        "--embedding_dim=8", "--bottom_mlp=16,8", "--top_mlp=16,1", "--eval_in_last",
        "--warmup_steps=0", f"--run_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if "guessing" in line]
    assert len(said) == 1, done.stdout
    assert "warning: AUC 0." in said[0]
    assert f"python3 -m dataset.validate {small_dataset}" in said[0]
