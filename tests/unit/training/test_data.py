"""Random batches have the shapes of a dataset or of a checkpoint."""

import types

import pytest

from tests.support.dataset.feature_specs import SIZES, SpecDataset
from training.checkpoint.manifest import dense_features
from training.config import DataConfig, TrainingConfig
from training.data import open_data

ONE_RANK = types.SimpleNamespace(rank=0, size=1)


def random_batches(dense_features=None, **data):
    config = DataConfig(use_synthetic_dataset=True, **data)
    training = TrainingConfig(global_batch_size=6, early_stop=1)
    return open_data(config, training, dense_features).load(None, ONE_RANK)


@pytest.mark.parametrize("numerical", [1, 10])
def test_random_batches_have_the_shapes_of_a_dataset(tmp_path, rng, numerical):
    SpecDataset(tmp_path, rng, numerical, places=("x", "y"))
    data = random_batches(data_dir=str(tmp_path))
    assert (data.vocab_sizes, data.dense_features) == (SIZES, numerical)
    (batch,) = data.train(0)
    assert batch["dense"].shape == (6, numerical)
    assert data.one_batch(4)["dense"].shape == (4, numerical)


def test_random_batches_have_the_dense_features_of_a_checkpoint():
    shapes = {"01.bias": [9], "10.kernel": [4, 2], "00.kernel": [7, 9]}
    dense = {name: {"shape": shape} for name, shape in shapes.items()}
    reader = types.SimpleNamespace(manifest={"dense": dense})
    data = random_batches(dense_features(reader.manifest), vocab_sizes="5,3")
    assert data.dense_features == 7
    (batch,) = data.train(0)
    assert batch["dense"].shape == (6, 7)
