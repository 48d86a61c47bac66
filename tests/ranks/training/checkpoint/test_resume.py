"""A run that stops and goes on is the run that never stopped."""

import collections
import json

import numpy as np
import pytest

import dataset
from dataset import reader
from tests.support import launch
from tests.unit.training.test_loop import Step
from training.checkpoint import folder, manifest
from training.config import Config
from training.data import Data
from training.loop import Loop, Services, StartPoint, Trainee
from training.precision import LossScale
from training.runtime.control_votes import ControlVotes
from training.runtime.process_group import SingleProcessGroup
from training.schedule import LearningRateSchedule
from training.telemetry.journal import Journal

SMALL = (
    "--embedding_dim=8", "--bottom_mlp=16,8", "--top_mlp=16,1", "--warmup_steps=5",
    "--decay_start_step=0", "--auc_threshold=1", "--global_batch_size=400", "--epochs=2",
    "--eval_in_last", "--checkpoint_interval=0", "--shuffle_seed=3",
)  # fmt: skip
STEPS = 100
SGD = ("--lr=0.5", "--custom_interact", "--xla", "--amp")
ADAM = (
    "--lr=0.01", "--optimizer=adam", "--embedding_optimizer=adagrad", "--loss_scale=dynamic",
)  # fmt: skip
FTRL = (
    "--lr=0.5", "--embedding_lr=0.05", "--embedding_optimizer=ftrl",
    "--embedding_optimizer_options=l1=0.00001,l2=0.0001,beta=0.001",
)  # fmt: skip


def train(data, work, *flags, ranks=1):
    """Runs main.py; returns (CompletedProcess, result)."""
    done = launch.run(
        ranks, "main.py", f"--data_dir={data}", f"--run_dir={work}/runs",
        f"--checkpoint_dir={work}/checkpoints", *SMALL, *flags,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done, json.loads((work / "runs" / "latest" / "result.json").read_text())


def arrays(work):
    """Returns {file: array} of the newest checkpoint."""
    step, path = folder.checkpoints(work / "checkpoints")[-1]
    _, digests = manifest.read(path)
    names = [name for name in digests if name.endswith(".npy")]
    return step, {name: np.load(path / name, allow_pickle=False) for name in names}


@pytest.mark.parametrize(
    "flags", [SGD, ADAM, FTRL], ids=["sgd-amp-xla", "adam-adagrad", "sgd-ftrl"]
)
def test_the_same_bytes_as_without_the_stop(small_dataset, tmp_path, flags):
    """Stopped after the first step, within an epoch and at the end of one."""
    _, whole = train(small_dataset, tmp_path / "whole", *flags)
    _, expected = arrays(tmp_path / "whole")
    assert whole["stopped_by"] == "epochs"
    assert whole["auc"] > 0.55
    work, before = tmp_path / "stopped", None
    for stop in (1, 37, 50, None):
        done, result = train(
            small_dataset, work, *flags, *([f"--early_stop={stop}"] if stop else [])
        )
        assert result["resumed_from_step"] == before
        assert arrays(work)[0] == (stop or STEPS)
        if before is not None:
            assert f"resuming after step {before}" in done.stdout
        before = stop
    assert result["auc"] == whole["auc"]
    _, found = arrays(work)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].tobytes() == values.tobytes(), name


def test_other_ranks_go_on_alike(small_dataset, tmp_path):
    """Stopped on 2 ranks, finished on 1 and on 3: the same to rounding."""
    flags = ("--lr=0.5", "--embedding_optimizer=adagrad", "--placement=row")
    _, whole = train(small_dataset, tmp_path / "whole", *flags, "--global_batch_size=240")
    for first, second in ((2, 1), (1, 3)):
        work = tmp_path / f"{first}-{second}"
        common = (*flags, "--global_batch_size=240")
        train(small_dataset, work, *common, "--early_stop=40", ranks=first)
        _, result = train(small_dataset, work, *common, ranks=second)
        assert result["resumed_from_step"] == 40
        assert result["loss"] == pytest.approx(whole["loss"], rel=1e-4)
        assert result["auc"] == pytest.approx(whole["auc"], abs=1e-4)


def test_a_finished_run_has_nothing_left_to_do(small_dataset, tmp_path):
    _, first = train(small_dataset, tmp_path, *SGD, "--early_stop=10")
    done, again = train(small_dataset, tmp_path, *SGD, "--early_stop=10")
    assert again["steps"] == 10
    assert again["auc"] == first["auc"]
    assert "n/a" in done.stdout  # no step, no rate


def test_begins_from_given_weights_at_step_0(small_dataset, tmp_path):
    train(small_dataset, tmp_path / "first", *SGD, "--early_stop=30")
    _, path = folder.checkpoints(tmp_path / "first" / "checkpoints")[-1]
    done, result = train(
        small_dataset, tmp_path / "second", *SGD, f"--restore={path}", "--early_stop=2",
        "--global_batch_size=200", "--print_interval=1",
    )  # fmt: skip
    assert "weights of step 30" in done.stdout
    assert result["resumed_from_step"] is None
    assert result["steps"] == 2
    losses = [
        json.loads(line)["loss"]
        for line in (tmp_path / "second" / "runs" / "latest" / "journal.jsonl").open()
        if '"event": "step"' in line
    ]
    assert losses[0] < 0.65  # the first step of a fresh run has ln 2 and more


class CountingStep(Step):
    """Counts the samples it is given."""

    def __init__(self, seen):
        super().__init__()
        self._seen = seen

    def __call__(self, batch, learning_rate, following=None, votes=(0.0, 0.0)):
        self._seen.update(batch["categorical"].numpy()[:, 0].tolist())
        return super().__call__(batch, learning_rate, following, votes)


@pytest.mark.parametrize("stop", [1, 9, 10, 14, 20, 25])
def test_each_sample_once_an_epoch_over_both_halves(tmp_path, stop):
    samples, batch = 1000, 100
    made = launch.run(
        1, "-m", "dataset.synthetic", "--output", tmp_path / "raw", "--train_samples", samples,
        "--test_samples", 50, "--vocab_sizes", f"{samples},5,7",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    split = launch.run(1, "split_bin.py", tmp_path / "raw" / "train_data.bin", tmp_path / "train")
    assert split.returncode == 0, split.stderr
    # Table 0's id is the sample's number.
    ids = np.fromfile(tmp_path / "train" / "category.bin", np.int32).reshape(samples, 3)
    ids[:, 0] = np.arange(samples)
    ids.tofile(tmp_path / "train" / "category.bin")
    description = dataset.open_split(tmp_path / "train")

    def train_batches(epoch, start_step=0):
        return reader.batches(description, batch, order=reader.EpochOrder(start_step, 5, epoch))

    data = Data(
        vocab_sizes=[samples, 5, 7], dense_features=13, steps_per_epoch=samples // batch,
        train=train_batches, test=None, one_batch=None, attainable_auc=None, facts={},
    )  # fmt: skip
    config = Config().with_values(epochs=3, eval_in_last=True, global_batch_size=batch)
    seen = collections.Counter()
    for start, early_stop in ((0, stop), (stop, -1)):
        trainee = Trainee(data, CountingStep(seen), LossScale(1.0), LearningRateSchedule(1.0))
        result = Loop(
            config.with_values(early_stop=early_stop), SingleProcessGroup(), trainee,
            Services(Journal(), ControlVotes(None, 0)), StartPoint(start),
        ).run()  # fmt: skip
    assert result["steps"] == 30
    assert seen == dict.fromkeys(range(samples), 3)
