"""What the loop tells those that serve it, without a model."""

import signal
import types

import pytest
import tensorflow as tf

from training import flag_definitions  # noqa: F401  the loop records the flags
from training.cluster import SingleRank
from training.data import Data
from training.flags import FLAGS
from training.journal import Journal
from training.loop import Loop
from training.precision import LossScale
from training.requests import Requests
from training.schedule import LearningRateSchedule


class Step:
    """Stands where `TrainStep` does."""

    def route(self, batch):
        return batch

    def __call__(self, batch, learning_rate, following=None, requests=(0.0, 0.0)):
        return tf.constant(0.5), tf.constant(requests)

    def wait(self):
        pass

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

    def before_step(self, route, waiting):
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

    def beat(self, doing):
        self.told.append(doing)

    def pause(self):
        self.told.append("pause")


@pytest.fixture
def run():
    FLAGS.mark_as_parsed()
    flags = types.SimpleNamespace(
        epochs=1, eval_in_last=True, print_interval=None, global_batch_size=4, auc_threshold=1.0,
        data_dir=None,
    )  # fmt: skip
    data = Data(
        vocab_sizes=[3], dense_features=2, steps_per_epoch=5,
        train=lambda epoch, first: [object()] * (5 - first), test=None, one_batch=None,
        attainable_auc=None, facts={},
    )  # fmt: skip

    def make(**options):
        return Loop(
            flags, SingleRank(), data, Step(), None, LearningRateSchedule(1.0), LossScale(1.0),
            Journal(), Requests(None, 0), **options,
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
    run(saver=Saver(), watchdog=watch)
    # The first step compiles: nobody watches it.
    steps = [f"step {number}" for number in range(2, 6)]
    assert watch.told[:9] == ["pause", *(word for step in steps for word in ("pause", step))]
