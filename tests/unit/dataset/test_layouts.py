"""Every layout is recognised, described correctly, and gives the same batches."""

import numpy as np
import pytest

from dataset import DatasetError, open_dataset, open_split, reader
from tests.support.dataset.hand_written import (
    VOCAB_SIZES,
    random_arrays,
    seed_metadata,
    write_days,
    write_raw,
    write_three_file,
)
from tests.support.dataset.layouts import LAYOUTS

BATCH = 120


@pytest.mark.parametrize(("write", "layout", "dense", "tolerance"), LAYOUTS)
def test_reader_gives_the_samples_of_every_layout(tmp_path, rng, write, layout, dense, tolerance):
    train, test = random_arrays(997, rng), random_arrays(50, rng)
    write(tmp_path, train, test)
    opened = open_dataset(tmp_path)
    assert open_dataset(tmp_path, layout) == opened
    for description, arrays in zip(opened, (train, test)):
        assert description.layout == layout
        assert description.samples == len(arrays.label)
        assert description.vocab_sizes == VOCAB_SIZES
        assert description.dense_features == 13
        seen = 0
        for batch in reader.batches(description, BATCH, drop_remainder=False):
            valid = int(batch["valid"])
            part = arrays.slice(seen, valid)
            np.testing.assert_array_equal(batch["label"][:valid, 0], part.label)
            np.testing.assert_array_equal(batch["categorical"][:valid], part.ids)
            np.testing.assert_allclose(
                batch["dense"][:valid], dense(part.dense.astype(np.float64)), tolerance, tolerance
            )
            seen += valid
        assert seen == len(arrays.label)


def test_flat_days_take_half_of_the_last_day_as_test_split(tmp_path, rng):
    arrays = random_arrays(500, rng)
    write_days(tmp_path, arrays, [200, 199, 101])
    train, test = open_dataset(tmp_path, vocab_sizes=VOCAB_SIZES)
    assert (train.samples, test.samples) == (399, 51)
    (batch,) = reader.batches(test, 51)
    np.testing.assert_array_equal(batch["categorical"], arrays.ids[399:450])


def test_fingerprint_differs_for_other_data(tmp_path, rng):
    path = tmp_path / "train_data.bin"
    write_raw(path, random_arrays(50, rng))
    first = open_split(path, vocab_sizes=VOCAB_SIZES).fingerprint
    again = open_split(path, vocab_sizes=VOCAB_SIZES).fingerprint
    write_raw(path, random_arrays(50, rng))
    assert first == again != open_split(path, vocab_sizes=VOCAB_SIZES).fingerprint


def test_open_split_refuses_an_unknown_layout(tmp_path):
    with pytest.raises(DatasetError) as caught:
        open_split(tmp_path, layout="parquet")
    assert caught.value.found == "parquet"
    assert "torchrec" in caught.value.expected


def test_open_split_needs_vocabulary_sizes(tmp_path, arrays):
    path = tmp_path / "train_data.bin"
    write_raw(path, arrays)
    with pytest.raises(DatasetError) as caught:
        open_split(path)
    assert (caught.value.flag, caught.value.path) == ("vocab_sizes", str(path))


def test_open_dataset_refuses_different_vocabulary_sizes(tmp_path, arrays):
    write_three_file(tmp_path / "train", arrays, seed_metadata())
    larger = [*VOCAB_SIZES[:-1], VOCAB_SIZES[-1] + 1]
    write_three_file(tmp_path / "test", arrays, seed_metadata(larger))
    with pytest.raises(DatasetError, match="table 7") as caught:
        open_dataset(tmp_path)
    assert (caught.value.expected, caught.value.found) == (VOCAB_SIZES, larger)
