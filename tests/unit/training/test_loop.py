"""What the loop tells those that serve it, without a model."""

import math
import signal
import types

import pytest
import tensorflow as tf

from training.config import Config
from training.data import Data
from training.loop import Loop, Services, StartPoint, Trainee
from training.precision import LossScale
from training.runtime.control_votes import ControlVotes
from training.runtime.errors import DivergedError
from training.runtime.process_group import SingleProcessGroup
from training.schedule import LearningRateSchedule
from training.telemetry.journal import Journal


class Step:
    """Stands where `TrainStep` does."""

    def plan(self, batch):
        return batch

    def __call__(self, batch, learning_rate, following=None, votes=(0.0, 0.0)):
        self.steps += 1
        return tf.constant(0.5), tf.constant(votes)

    def __init__(self, weights=1.0):
        self.weights, self.steps, self.paused = weights, 0, []

    def wait(self):
        pass

    def pause(self, seconds):
        self.paused.append(seconds)

    def finite(self):
        return math.isfinite(self.weights)

    def last_loss(self):
        return 0.5

    def mean_loss(self):
        return 0.5


class Saver:
    """Stands where a `Saver` does, on a slow disk; `begun` is called by `begin`."""

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
    """Stands where a `Watchdog` does: keeps what it is told."""

    def __init__(self):
        self.told = []

    def heartbeat(self, activity):
        self.told.append(activity)

    def pause(self, alone=False):
        self.told.append("wait" if alone else "pause")


@pytest.fixture
def run():
    config = Config().with_values(global_batch_size=4, eval_in_last=True, auc_threshold=1.0)
    data = Data(
        vocab_sizes=[3], dense_features=2, steps_per_epoch=5,
        train=lambda epoch, first: [object()] * (5 - first), test=None, one_batch=None,
        attainable_auc=None, facts={},
    )  # fmt: skip

    def make(changed=(), *, step=None, evaluate=None, start=None, **services):
        trainee = Trainee(data, step or Step(), LossScale(1.0), LearningRateSchedule(1.0), evaluate)
        return Loop(
            config.with_values(**dict(changed)), SingleProcessGroup(), trainee,
            Services(Journal(), ControlVotes(None, 0), **services), start,
        ).run()  # fmt: skip

    return make


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_does_not_break_off_the_last_checkpoint(run, number):
    saver = Saver(begun=lambda: signal.raise_signal(number))
    result = run(saver=saver)
    assert result["stopped_by"] == "epochs"
    assert result["steps"] == 5
    assert (saver.steps, saver.finished) == ([5], 1)


def test_a_wait_for_the_disk_is_not_taken_for_a_standstill(run):
    watch = Watch()
    run(saver=Saver(), watch=watch)
    # The first step compiles: nobody watches it.
    steps = [f"step {number}" for number in range(2, 6)]
    assert watch.told[:9] == ["wait", *(word for step in steps for word in ("wait", step))]


def test_weights_that_are_not_finite_are_no_checkpoint(run):
    saver = Saver()
    saver.newest = lambda: "step-000000003"
    with pytest.raises(DivergedError, match=r"weights are not finite at step 5 .*step-000000003"):
        run(saver=saver, step=Step(weights=float("nan")))
    assert saver.steps == []


@pytest.mark.parametrize(
    ("threshold", "in_last", "steps"),
    [(0.75, False, 0), (0.85, False, 3), (0.75, True, 3)],
    ids=["passed", "raised since", "scored at the end alone"],
)
def test_a_run_that_has_passed_the_threshold_does_not_train_on(run, threshold, in_last, steps):
    """As when the command of a finished run is given again."""
    scores = types.SimpleNamespace(auc=0.5, log_loss=0.7, samples=9, positives=4)
    step, found = Step(), {"step": 2, "auc": 0.8, "log_loss": 0.5, "samples": 9, "seconds": 1.0}
    result = run(
        {"auc_threshold": threshold, "eval_in_last": in_last, "eval_interval": 2},
        evaluate=lambda beat, stop: scores, step=step, start=StartPoint(2, [found]),
    )  # fmt: skip
    assert step.steps == steps
    assert result["steps"] == 2 + steps
    assert result["stopped_by"] == ("auc_threshold" if steps == 0 else "epochs")


def test_evaluations_and_checkpoints_are_not_in_the_time_of_steps(run):
    scores = types.SimpleNamespace(auc=0.5, log_loss=0.7, samples=9, positives=4)
    step, saver = Step(), Saver()
    run(
        {"eval_in_last": False, "eval_interval": 2}, evaluate=lambda beat, stop: scores,
        step=step, saver=saver,
    )  # fmt: skip
    assert len(step.paused) == 4  # after steps 2, 4 and 5, and the checkpoint


def test_an_auc_that_is_not_defined_is_none_and_a_run_goes_on_after_it(run):
    scores = types.SimpleNamespace(auc=math.nan, log_loss=0.7, samples=9, positives=0)
    saver, found = Saver(), {"step": 2, "auc": None, "log_loss": 0.5, "samples": 9, "seconds": 1.0}
    result = run(
        {"eval_in_last": False, "eval_interval": 2}, evaluate=lambda beat, stop: scores,
        saver=saver, start=StartPoint(2, [found]),
    )  # fmt: skip
    assert result["steps"] == 5
    assert (result["auc"], result["best_auc"], result["log_loss"]) == (None, None, 0.7)
