"""Datasets that tests read."""

import pathlib

import pytest

from tests.support import launch
from tests.support.dataset.hand_written import random_arrays

VOCAB = "300,20,7,1000,3,150"


@pytest.fixture
def arrays(seed):
    """`Arrays` of 997 random samples."""
    return random_arrays(997, seed=seed)


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory):
    """A three-file dataset of 20,000 training and 3,001 test samples with six tables."""
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "raw"
    made = launch.run(
        1, "-m", "dataset.synthetic", "--output", raw, "--train_samples", 20000,
        "--test_samples", 3001, "--vocab_sizes", VOCAB,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    for part in ("train", "test"):
        split = launch.run(1, "split_bin.py", raw / f"{part}_data.bin", folder / part)
        assert split.returncode == 0, split.stderr
    return pathlib.Path(folder)
