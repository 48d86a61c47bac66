"""Datasets for tests."""

import numpy as np
import pytest

from tests.support.dataset.hand_written import random_arrays

VOCAB = [300, 20, 7, 1000, 3, 150]


@pytest.fixture
def arrays(rng):
    """`Arrays` of 997 random samples."""
    return random_arrays(997, rng)


@pytest.fixture(scope="session")
def shared_rng(seed_of):
    """Returns a function (*names) -> `numpy.random.Generator`, for shared fixtures."""
    return lambda *names: np.random.default_rng(seed_of(*names))


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory, seed_of):
    """A three-file dataset of 20,000 training and 3,001 test samples with six tables."""
    import split_bin
    from dataset import synthetic

    folder = tmp_path_factory.mktemp("data")
    raw = folder / "raw"
    seed = seed_of("small_dataset")
    synthetic.write_dataset(str(raw), 20000, 3001, VOCAB, seed, progress=False)
    for part in ("train", "test"):
        assert split_bin.main([str(raw / f"{part}_data.bin"), str(folder / part)]) == 0
    return folder
