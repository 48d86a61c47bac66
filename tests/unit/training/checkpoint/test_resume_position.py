"""A resumed run continues at the same position in the data."""

import collections

import numpy as np
import pytest

import dataset
from dataset import reader
from tests.support.dataset.hand_written import random_arrays, seed_metadata, write_three_file
from tests.unit.training.test_loop import Step
from training.config import Config
from training.data import Data
from training.loop import Loop, Services, StartPoint, Trainee
from training.precision import LossScale
from training.runtime import environment
from training.runtime.control_votes import ControlVotes
from training.runtime.process_group import SingleProcessGroup
from training.schedule import LearningRateSchedule
from training.telemetry.journal import Journal

SAMPLES, BATCH, EPOCHS = 200, 20, 3


class CountingStep(Step):
    """Counts how often it gets each sample."""

    def __init__(self, seen):
        super().__init__()
        self._seen = seen

    def __call__(self, batch, learning_rate, following=None, votes=(0.0, 0.0)):
        self._seen.update(batch["categorical"].numpy()[:, 0].tolist())
        return super().__call__(batch, learning_rate, following, votes)


@pytest.mark.parametrize("stop", [1, 9, 10, 14, 20, 25])
def test_a_resumed_run_reads_each_sample_once_per_epoch(tmp_path, monkeypatch, rng, seed, stop):
    monkeypatch.setattr(environment, "versions", dict)  # It starts git.
    vocab = [SAMPLES, 5, 7]
    arrays = random_arrays(SAMPLES, rng, vocab)
    arrays.ids[:, 0] = np.arange(SAMPLES)  # Table 0's id is the index of the sample.
    write_three_file(tmp_path, arrays, seed_metadata(vocab))
    description = dataset.open_split(tmp_path)

    def train_batches(epoch, start_step=0):
        order = reader.EpochOrder(start_step, seed, epoch)
        return reader.batches(description, BATCH, order=order)

    data = Data(
        vocab_sizes=vocab, dense_features=13, steps_per_epoch=SAMPLES // BATCH,
        train=train_batches, test=None, one_batch=None, attainable_auc=None, facts={},
    )  # fmt: skip
    config = Config().with_values(epochs=EPOCHS, eval_in_last=True, global_batch_size=BATCH)
    seen = collections.Counter()
    for start, early_stop in ((0, stop), (stop, -1)):
        trainee = Trainee(data, CountingStep(seen), LossScale(1.0), LearningRateSchedule(1.0))
        result = Loop(
            config.with_values(early_stop=early_stop), SingleProcessGroup(), trainee,
            Services(Journal(), ControlVotes(None, 0)), StartPoint(start),
        ).run()  # fmt: skip
    assert result["steps"] == EPOCHS * SAMPLES // BATCH
    assert seen == dict.fromkeys(range(SAMPLES), EPOCHS)
