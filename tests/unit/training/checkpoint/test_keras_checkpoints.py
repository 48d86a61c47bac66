"""Checkpoints of releases that trained the MLPs with Keras' optimizers."""

import types

import numpy as np
import pytest

from model.dlrm import DenseDLRM, DLRMConfig
from model.embedding.interface import EmbeddingOptions
from model.embedding.placement import plan
from model.embedding.sharded import ShardedEmbedding
from tests.support.training.checkpoint import keras_archives
from tests.support.training.checkpoint.keras_archives import BOTTOM, DIMENSION, TOP, VOCAB
from training.checkpoint import manifest, restore
from training.checkpoint.errors import DamagedError
from training.checkpoint.reader import Reader
from training.checkpoint.state import State
from training.modes import export
from training.optimizers import OPTIMIZERS
from training.precision import LossScale
from training.runtime.process_group import SingleProcessGroup


@pytest.fixture
def written(tmp_path):
    """A function (optimizer) -> the checkpoint of step 3."""
    return lambda optimizer: keras_archives.unpack(optimizer, tmp_path / "written")[0]


def job(seed, optimizer=None):
    """Returns the `State` of a job with other weights; without an optimizer, one for inference."""
    model = DenseDLRM(DLRMConfig(13, len(VOCAB), BOTTOM, TOP, seed=seed))
    cluster = SingleProcessGroup()
    options = EmbeddingOptions(seed=seed)
    embedding = ShardedEmbedding(plan(VOCAB, DIMENSION, 1), cluster, 8, options)
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
def test_load_restores_every_value(written, seed, optimizer):
    folder = written(optimizer)
    state = job(seed, optimizer)
    restore.load(reader_of(folder), state, training=True)
    check_loaded(state, folder, ("dense", "optimizer"))
    state = job(seed)
    restore.load(reader_of(folder), state, training=False)
    check_loaded(state, folder, ("dense",))


def test_export_has_the_old_weights(written):
    folder = written("adam")
    module = export.serving_model(reader_of(folder), "log(x+1)")
    arrays = [np.load(path) for path in sorted(folder.glob("dense.*.npy"))]
    for variable, values in zip(module.dense_variables, arrays):
        assert variable.numpy().tobytes() == values.tobytes()
    for table, variable in enumerate(module.tables):
        values = np.load(folder / f"table_{table:02d}.rank_0.npy")
        assert variable.numpy().tobytes() == values.tobytes()


def test_only_the_unused_momentum_of_sgd_is_ignored(written, seed):
    folder = written("sgd")
    names = reader_of(folder).manifest["optimizer"]
    assert restore.without_unused_momentum(names) == {"00.iteration"}
    assert len(names) == 9
    adam = {"00.iteration", "01.m_kernel", "02.v_kernel"}
    assert restore.without_unused_momentum(adam) == adam
    with pytest.raises(DamagedError) as caught:
        restore.load(reader_of(folder), job(seed, "adagrad"), training=True)
    assert "01.accumulator_kernel" in set(caught.value.expected) - set(caught.value.found)
