"""The training loop with stubs instead of a model, checkpoints and a watchdog."""

import math
import signal
import types

import pytest
import tensorflow as tf

from ops.bags import Bags
from training.config import Config
from training.data import Data
from training.evaluation import ScoresNotFiniteError
from training.loop import Loop, Services, StartPoint, Trainee
from training.precision import LossScale
from training.runtime import environment
from training.runtime.control_votes import ControlVotes
from training.runtime.errors import DivergedError
from training.runtime.process_group import SingleProcessGroup
from training.schedule import LearningRateSchedule
from training.telemetry.journal import Journal


class Step:
    """Replaces `TrainStep`."""

    def plan(self, batch):
        return batch

    def __call__(self, batch, learning_rate, following=None, votes=(0.0, 0.0)):
        self.steps += 1
        return tf.constant(0.5), tf.constant(votes)

    def __init__(self, weights=1.0, loss=0.5):
        self.weights, self.loss, self.steps, self.paused = weights, loss, 0, []

    def wait(self):
        pass

    def pause(self, seconds):
        self.paused.append(seconds)

    def finite(self):
        return math.isfinite(self.weights)

    def last_loss(self):
        return self.loss

    def mean_loss(self):
        return 0.5


class Saver:
    """Replaces `Saver` with a slow disk; `begin` calls `begun`."""

    def __init__(self, begun=lambda: None):
        self.begun = begun
        self.steps, self.finished = [], 0

    def due(self, step):
        return False

    def check(self):
        pass

    def before_step(self, plan, waiting):
        waiting()

    def begin(self, step, epoch, evaluations):
        self.begun()
        self.steps.append(step)

    def finish(self):
        self.finished += 1


class Watch:
    """Replaces a `Watchdog`; records the calls."""

    def __init__(self):
        self.calls = []

    def heartbeat(self, activity):
        self.calls.append(activity)

    def pause(self, alone=False):
        self.calls.append("wait" if alone else "pause")


class Events(Journal):
    """A journal that keeps the events in memory."""

    def __init__(self):
        super().__init__()
        self.events = []

    def emit(self, kind, **fields):
        self.events.append((kind, fields))


def scores(auc=0.5, positives=4):
    return types.SimpleNamespace(auc=auc, log_loss=0.7, samples=9, positives=positives)


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(environment, "versions", dict)  # It starts git.
    config = Config().with_values(global_batch_size=4, eval_in_last=True, auc_threshold=1.0)
    data = Data(
        vocab_sizes=[3], bags=Bags.one_hot(1), dense_features=2, steps_per_epoch=5,
        train=lambda epoch, first: [object()] * (5 - first), test=None, one_batch=None,
        attainable_auc=None, facts={},
    )  # fmt: skip

    def make(
        changed=(), *, step=None, evaluate=None, start=None, journal=None, scale=None, **services
    ):
        scale = scale or LossScale(1.0)
        trainee = Trainee(data, step or Step(), scale, LearningRateSchedule(1.0), evaluate)
        return Loop(
            config.with_values(**dict(changed)), SingleProcessGroup(), trainee,
            Services(journal or Journal(), ControlVotes(None, 0), **services), start,
        ).run()  # fmt: skip

    return make


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_does_not_interrupt_the_last_checkpoint(run, number):
    saver = Saver(begun=lambda: signal.raise_signal(number))
    result = run(saver=saver)
    assert result["stopped_by"] == "epochs"
    assert result["steps"] == 5
    assert (saver.steps, saver.finished) == ([5], 1)


def test_loop_pauses_the_watchdog_while_waiting_for_the_disk(run):
    watch = Watch()
    run(saver=Saver(), watch=watch)
    # The first step compiles, so it is not watched.
    steps = [f"step {number}" for number in range(2, 6)]
    assert watch.calls[:9] == ["wait", *(word for step in steps for word in ("wait", step))]


def test_loop_writes_no_checkpoint_of_weights_that_are_not_finite(run):
    saver = Saver()
    saver.newest = lambda: "step-000000003"
    with pytest.raises(DivergedError, match=r"step 5 .*step-000000003"):
        run(saver=saver, step=Step(weights=float("nan")))
    assert saver.steps == []


@pytest.mark.parametrize(
    ("threshold", "in_last", "steps"),
    [(0.75, False, 0), (0.85, False, 3), (0.75, True, 3)],
    ids=["passed", "raised threshold", "evaluated only at the end"],
)
def test_resumed_run_that_has_passed_the_threshold_stops(run, threshold, in_last, steps):
    step, found = Step(), {"step": 2, "auc": 0.8, "log_loss": 0.5, "samples": 9, "seconds": 1.0}
    result = run(
        {"auc_threshold": threshold, "eval_in_last": in_last, "eval_interval": 2},
        evaluate=lambda heartbeat, stop: scores(), step=step, start=StartPoint(2, [found]),
    )  # fmt: skip
    assert step.steps == steps
    assert result["steps"] == 2 + steps
    assert result["stopped_by"] == ("auc_threshold" if steps == 0 else "epochs")


def test_time_of_steps_excludes_evaluations_and_checkpoints(run):
    step, journal = Step(), Events()
    run(
        {"eval_in_last": False, "eval_interval": 2},
        evaluate=lambda heartbeat, stop: scores(), step=step, saver=Saver(), journal=journal,
    )  # fmt: skip
    assert [e["step"] for kind, e in journal.events if kind == "evaluation"] == [2, 4, 5]
    assert len(step.paused) == 4  # after steps 2, 4 and 5, and the checkpoint


def test_undefined_auc_is_none_and_the_run_continues(run):
    saver, found = Saver(), {"step": 2, "auc": None, "log_loss": 0.5, "samples": 9, "seconds": 1.0}
    result = run(
        {"eval_in_last": False, "eval_interval": 2},
        evaluate=lambda heartbeat, stop: scores(math.nan, positives=0), saver=saver,
        start=StartPoint(2, [found]),
    )  # fmt: skip
    assert result["steps"] == 5
    assert (result["auc"], result["best_auc"], result["log_loss"]) == (None, None, 0.7)


def test_loop_stops_at_the_auc_threshold(run):
    result = run(
        {"eval_in_last": False, "eval_interval": 2, "auc_threshold": 0.75},
        evaluate=lambda heartbeat, stop: scores(0.8),
    )
    assert (result["stopped_by"], result["steps"], result["auc"]) == ("auc_threshold", 2, 0.8)


def test_stopped_evaluation_leaves_no_record_and_ends_the_run(run):
    journal = Events()
    result = run(
        {"eval_in_last": False, "eval_interval": 2}, evaluate=lambda heartbeat, stop: None,
        journal=journal,
    )  # fmt: skip
    assert (result["stopped_by"], result["steps"], result["auc"]) == ("signal", 2, None)
    assert "evaluation" not in [kind for kind, _ in journal.events]


def test_loop_reports_a_model_that_learns_nothing(run):
    journal = Events()
    run(evaluate=lambda heartbeat, stop: scores(0.5), journal=journal)
    (text,) = [event["text"] for kind, event in journal.events if kind == "message"]
    assert text.startswith("warning: AUC 0.5000")


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_loop_ends_with_an_error_if_the_loss_is_not_finite(run, loss):
    with pytest.raises(DivergedError) as caught:
        run(step=Step(loss=loss))
    for word in (f"loss is {loss}", "step 5", "learning rate 1", "loss scale 1", "--lr"):
        assert word in str(caught.value)


@pytest.mark.parametrize("in_a_row", [99, 100])
def test_hundred_skipped_steps_in_a_row_end_the_run(run, in_a_row):
    scale = LossScale(1.0, skip_nonfinite=True)
    for _ in range(in_a_row):
        scale.after_step(tf.constant(False))
    if in_a_row < 100:
        assert run(step=Step(loss=math.nan), scale=scale)["skipped_steps"] == in_a_row
        return
    with pytest.raises(DivergedError, match=r"last 100 steps .* step 5 "):
        run(scale=scale)


def test_loop_ends_with_an_error_if_scores_are_not_finite(run):
    def evaluate(heartbeat, stop):
        raise ScoresNotFiniteError("7 scores")

    with pytest.raises(DivergedError, match=r"7 scores at step 4 "):
        run({"eval_in_last": False, "eval_interval": 4}, evaluate=evaluate)
