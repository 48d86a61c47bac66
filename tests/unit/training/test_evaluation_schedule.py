"""`EvaluationSchedule`: due steps, and the AUC that ends training."""

import dataclasses

import pytest

from training.config import EvaluationConfig
from training.evaluation_schedule import EvaluationSchedule


def record(step, auc, log_loss=0.5):
    return {"step": step, "auc": auc, "log_loss": log_loss, "samples": 9, "seconds": 1.0}


def schedule(records=(), *, steps_per_epoch=100, last_step=200, has_test_data=True, **values):
    config = dataclasses.replace(EvaluationConfig(), **values)
    return EvaluationSchedule(
        config, steps_per_epoch, last_step, records, has_test_data=has_test_data
    )


@pytest.mark.parametrize(
    ("values", "interval"),
    [
        ({}, 5),
        ({"evals_per_epoch": 30}, 3),
        ({"evals_per_epoch": 1000}, 1),
        ({"eval_interval": 7}, 7),
        ({"eval_in_last": True, "eval_interval": 7}, None),
        ({"has_test_data": False}, None),
    ],
)
def test_evaluations_are_due_at_the_interval(values, interval):
    found = schedule(**values)
    assert found.interval == interval
    due = [step for step in range(250) if found.due_after(step)]
    # Never due after the last step, because the run evaluates at its end.
    assert due == ([] if interval is None else list(range(interval, 200, interval)))


def test_recorded_evaluation_is_not_due_again():
    found = schedule(eval_interval=10)
    assert found.due_after(10)
    found.records.append(record(10, 0.6))
    assert found.made_after(10)
    assert not found.due_after(10)
    assert found.due_after(20)


@pytest.mark.parametrize(
    ("auc", "passes"), [(0.81, True), (0.8, False), (0.5, False), (None, False)]
)
def test_auc_above_the_threshold_ends_training(auc, passes):
    found = schedule([record(10, auc)], eval_interval=10, auc_threshold=0.8)
    assert found.passes(auc) == passes
    assert found.passed_after(10) == passes
    assert not found.passed_after(20)
    # The evaluation after the last step does not end training.
    assert not schedule([record(200, auc)], eval_interval=10, auc_threshold=0.8).passed_after(200)


def test_summary_has_the_last_and_the_best_scores():
    assert schedule().summary() == {"auc": None, "best_auc": None, "log_loss": None}
    found = schedule([record(5, 0.7), record(10, None), record(15, 0.6, 0.4)])
    assert found.summary() == {"auc": 0.6, "best_auc": 0.7, "log_loss": 0.4}
    assert schedule([record(5, None)]).summary()["best_auc"] is None
