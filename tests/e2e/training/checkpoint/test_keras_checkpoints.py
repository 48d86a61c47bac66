"""Checkpoints written when the dense part's optimizers were Keras': data/README.md."""

import shutil
import tarfile
import types

import numpy as np
import pytest

from model.dlrm import DenseDLRM, DLRMConfig
from model.embedding.interface import EmbeddingOptions
from model.embedding.placement import plan
from model.embedding.sharded import ShardedEmbedding
from tests.support import launch
from tests.support.paths import ROOT
from training.checkpoint import manifest, restore
from training.checkpoint.errors import DamagedError
from training.checkpoint.keras_names import without_momentum
from training.checkpoint.reader import Reader
from training.checkpoint.state import State
from training.modes import export
from training.optimizers import OPTIMIZERS
from training.precision import LossScale
from training.runtime.process_group import SingleProcessGroup

FILTERS = hasattr(tarfile, "data_filter")
DATA = ROOT / "tests/support/training/checkpoint/data"
VOCAB, DIMENSION, BOTTOM, TOP, BATCH = (5, 3), 2, (4, 2), (3, 1), 8
FLAGS = (
    "--use_synthetic_dataset", "--vocab_sizes=5,3", "--embedding_dim=2", "--bottom_mlp=4,2",
    "--top_mlp=3,1", "--global_batch_size=8", "--lr=0.1", "--warmup_steps=1",
    "--decay_start_step=0", "--seed=3",
)  # fmt: skip


@pytest.fixture
def written(tmp_path):
    """A function that unpacks an optimizer's checkpoints; returns (of step 3, of step 6)."""

    def unpack(optimizer):
        target = tmp_path / "written"
        with tarfile.open(DATA / f"keras_2.15_{optimizer}.tar.gz") as archive:
            # Pythons before 3.11.4 have no filters, later ones want one.
            archive.extractall(target, **({"filter": "data"} if FILTERS else {}))
        return target / "step-000000003", target / "step-000000006"

    return unpack


def job(optimizer=None):
    """Returns the `State` of a job with other weights; without an optimizer, one for inference."""
    model = DenseDLRM(DLRMConfig(13, len(VOCAB), BOTTOM, TOP, seed=99))
    cluster = SingleProcessGroup()
    embedding = ShardedEmbedding(
        plan(VOCAB, DIMENSION, 1), cluster, BATCH, EmbeddingOptions(seed=99)
    )
    if optimizer is None:
        nothing = types.SimpleNamespace(variables=[])
        scale = types.SimpleNamespace(variables={}, dynamic=False)
        return State(model, nothing, scale, embedding, cluster)
    made = OPTIMIZERS[optimizer](model.trainable_variables)
    return State(model, made, LossScale(1.0), embedding, cluster)


def reader_of(folder):
    return Reader(folder, manifest.read(folder)[0])


def check_loaded(state, folder, groups):
    for group in groups:
        assert state.named[group]
        for name, variable in state.named[group].items():
            values = np.load(folder / f"{group}.{name}.npy")
            assert variable.numpy().tobytes() == values.tobytes(), name
    for stored in state.tables.all:
        values = np.load(folder / f"table_{stored.shard.table:02d}.rank_0.npy")
        assert stored.read(0, stored.shape[0]).tobytes() == values.tobytes()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_value_is_restored(written, optimizer):
    folder, _ = written(optimizer)
    state = job(optimizer)
    restore.load(reader_of(folder), state, training=True)
    check_loaded(state, folder, ("dense", "optimizer"))
    state = job()
    restore.load(reader_of(folder), state, training=False)
    check_loaded(state, folder, ("dense",))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_as_it_did(written, tmp_path, optimizer):
    before, expected = written(optimizer)
    shutil.copytree(before, tmp_path / "checkpoints" / before.name)
    done = launch.run(
        1, "main.py", *FLAGS, f"--optimizer={optimizer}", "--early_stop=6",
        f"--checkpoint_dir={tmp_path / 'checkpoints'}", f"--run_dir={tmp_path / 'runs'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after step 3" in done.stdout
    found = tmp_path / "checkpoints" / expected.name
    files = sorted(path.name for path in found.glob("*.npy"))
    known = {path.name for path in expected.glob("*.npy")}
    assert known >= set(files)
    # What is no longer kept: SGD's unused momentum.
    assert len(known) - len(files) == (8 if optimizer == "sgd" else 0)
    moved = 0
    for name in files:
        ours, theirs, old = (np.load(folder / name) for folder in (found, expected, before))
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        change = np.linalg.norm(theirs - old)
        moved += change > 0
        # Adam's float32 hyper-parameters differ by 7e-6, other processors' sums by their rounding.
        limit = 1e-4 * change + 1e-6 * np.linalg.norm(theirs)
        assert np.linalg.norm(ours - theirs) <= limit, name
    assert moved >= 10


def test_an_export_has_the_old_weights(written, tmp_path):
    folder, _ = written("adam")
    module = export.serving_model(reader_of(folder), "log(x+1)")
    arrays = [np.load(path) for path in sorted(folder.glob("dense.*.npy"))]
    for variable, values in zip(module.dense_variables, arrays):
        assert variable.numpy().tobytes() == values.tobytes()
    for table, variable in enumerate(module.tables):
        values = np.load(folder / f"table_{table:02d}.rank_0.npy")
        assert variable.numpy().tobytes() == values.tobytes()


def test_only_the_unused_momentum_of_sgd_may_be_there(written):
    folder, _ = written("sgd")
    names = reader_of(folder).manifest["optimizer"]
    assert without_momentum(names) == {"00.iteration"}
    assert len(names) == 9
    adam = {"00.iteration", "01.m_kernel", "02.v_kernel"}
    assert without_momentum(adam) == adam
    # Of another optimizer they are missed.
    with pytest.raises(DamagedError, match=r"optimizer state lacks 01.accumulator_kernel"):
        restore.load(reader_of(folder), job("adagrad"), training=True)
