"""Checkpoints of releases that trained the MLPs with Keras' optimizers."""

import numpy as np
import pytest

from tests.support.training.checkpoint import restored_values
from tests.support.training.checkpoint.keras_archives import unpack
from training.checkpoint import manifest, restore
from training.checkpoint.errors import DamagedError
from training.optimizers import OPTIMIZERS


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_load_restores_every_value(tmp_path, optimizer):
    folder, _ = unpack(optimizer, tmp_path / "written")
    restored_values.main(folder, optimizer, tmp_path / "values.npz")
    found = dict(np.load(tmp_path / "values.npz"))
    assert {name.partition(".")[0] for name in found} == {
        "dense", "optimizer", "table_00", "table_01", "tensorflow"
    }  # fmt: skip
    del found["tensorflow"]
    for name, values in found.items():
        assert values.tobytes() == np.load(folder / f"{name}.npy").tobytes(), name


def test_only_the_unused_momentum_of_sgd_is_ignored(tmp_path):
    folder, _ = unpack("sgd", tmp_path / "written")
    names = manifest.read(folder)[0]["optimizer"]
    assert restore.without_unused_momentum(names) == {"00.iteration"}
    assert len(names) == 9
    adam = {"00.iteration", "01.m_kernel", "02.v_kernel"}
    assert restore.without_unused_momentum(adam) == adam
    with pytest.raises(DamagedError) as caught:
        restored_values.main(folder, "adagrad", tmp_path / "values.npz")
    assert "01.accumulator_kernel" in set(caught.value.expected) - set(caught.value.found)
