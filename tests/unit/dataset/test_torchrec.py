"""TorchRec's days with multi-hot ids: recognised, read in place, and refused when inconsistent."""

import json

import numpy as np
import pytest

from dataset import DatasetError, open_dataset, open_split, open_train, reader
from dataset.chunks import ChunkReader
from ops.bags import MAX_HOTNESS
from tests.support.dataset.hand_written import VOCAB_SIZES, random_arrays, write_days

HOTNESS = (3, 1, 2, 5, 1, 7, 12, 1)


def random_bags(samples, rng, hotness=HOTNESS):
    """Ids of each table, int32 [samples, hotness]."""
    return [rng.integers(0, v, (samples, k), np.int32) for v, k in zip(VOCAB_SIZES, hotness)]


def write_multi_hot_days(folder, arrays, bags, lengths):
    """Writes labels, dense values and multi-hot ids of `lengths[k]` samples in day k."""
    write_days(folder, arrays, lengths)
    first = 0
    for day, length in enumerate(lengths):
        part = {str(table): ids[first : first + length] for table, ids in enumerate(bags)}
        np.savez(folder / f"day_{day}_sparse_multi_hot.npz", **part)
        first += length
    (folder / "vocab_sizes.json").write_text(json.dumps(VOCAB_SIZES))


def remove_one_hot(folder):
    for path in folder.glob("day_*_sparse.npy"):
        path.unlink()


def read(description, first, count):
    with ChunkReader(description) as reader:
        chunk = reader.read(first, count)
        return chunk.label.copy(), [ids.copy() for ids in chunk.ids]


def test_days_with_multi_hot_ids_are_read_in_place(tmp_path, rng):
    arrays, bags = random_arrays(90, rng), random_bags(90, rng)
    write_multi_hot_days(tmp_path, arrays, bags, [40, 1, 32, 17])
    remove_one_hot(tmp_path)
    all_days = open_split(tmp_path)
    assert (all_days.layout, all_days.samples) == ("torchrec_multi_hot", 90)
    assert all_days.bags.hotness == HOTNESS
    assert all_days.bags.pooling == ("sum",) * len(HOTNESS)
    train, test = open_dataset(tmp_path)
    assert (train.samples, test.samples) == (73, 9)
    assert open_train(tmp_path).fingerprint == train.fingerprint != test.fingerprint
    for split, offset in ((all_days, 0), (train, 0), (test, 73)):
        first = int(rng.integers(0, split.samples))
        rows = slice(offset + first, offset + split.samples)
        label, ids = read(split, first, split.samples - first)
        np.testing.assert_array_equal(label, arrays.label[rows])
        for found, expected in zip(ids, bags):
            np.testing.assert_array_equal(found, expected[rows])


@pytest.mark.parametrize("tables", [None, [6, 0, 3]])
def test_batches_of_days_with_multi_hot_ids_cross_days(tmp_path, rng, tables):
    arrays, bags = random_arrays(90, rng), random_bags(90, rng)
    write_multi_hot_days(tmp_path, arrays, bags, [40, 1, 32, 17])
    days = open_split(tmp_path, "torchrec_multi_hot")
    for step, batch in enumerate(reader.batches(days, 20, tables=tables).as_numpy_iterator()):
        rows = slice(20 * step, 20 * step + 20)
        expected = [bags[t][rows] for t in (tables or range(len(HOTNESS)))]
        np.testing.assert_array_equal(batch["categorical"], np.hstack(expected))
        np.testing.assert_array_equal(batch["label"][:, 0], arrays.label[rows])


def test_days_with_ids_of_both_kinds_are_one_hot_unless_named(tmp_path, rng):
    arrays, bags = random_arrays(20, rng), random_bags(20, rng)
    write_multi_hot_days(tmp_path, arrays, bags, [12, 8])
    assert open_dataset(tmp_path)[0].layout == "torchrec"
    for split in open_dataset(tmp_path, "torchrec_multi_hot"):
        assert split.layout == "torchrec_multi_hot"
        np.testing.assert_array_equal(
            read(split, 0, 1)[1][6][0], bags[6][0 if split.samples > 4 else 12]
        )


def test_days_without_labels_say_where_these_are(tmp_path, rng):
    write_multi_hot_days(tmp_path, random_arrays(9, rng), random_bags(9, rng), [9])
    remove_one_hot(tmp_path)
    (tmp_path / "day_0_dense.npy").unlink()
    with pytest.raises(DatasetError, match=r"day_0_dense.npy: missing file; link the labels and"):
        open_split(tmp_path)


@pytest.mark.parametrize("ids", [MAX_HOTNESS, MAX_HOTNESS + 1])
def test_days_with_more_ids_than_supported_are_refused(tmp_path, rng, ids):
    bags = random_bags(2, rng, (*HOTNESS[:6], ids, 1))
    write_multi_hot_days(tmp_path, random_arrays(2, rng), bags, [2])
    if ids == MAX_HOTNESS:
        assert open_split(tmp_path, "torchrec_multi_hot").bags.hotness[6] == ids
        return
    with pytest.raises(DatasetError) as caught:
        open_split(tmp_path, "torchrec_multi_hot")
    path = tmp_path / "day_0_sparse_multi_hot.npz"
    expected = f"{path}: hotness of table 6: expected an integer from 1 to 65536, found 65537"
    assert str(caught.value) == expected


def test_days_with_other_hotness_or_sample_counts_are_refused(tmp_path, rng):
    arrays, bags = random_arrays(20, rng), random_bags(20, rng)
    write_multi_hot_days(tmp_path, arrays, bags, [12, 8])
    other = (3, 1, 2, 5, 1, 7, 11, 1)
    parts = {str(t): ids for t, ids in enumerate(random_bags(8, rng, other))}
    np.savez(tmp_path / "day_1_sparse_multi_hot.npz", **parts)
    with pytest.raises(DatasetError, match=r"day_1_.*as in day 0: expected \[3, .* found \[3,"):
        open_split(tmp_path, "torchrec_multi_hot")
    parts = {str(t): ids for t, ids in enumerate(random_bags(7, rng))}
    np.savez(tmp_path / "day_1_sparse_multi_hot.npz", **parts)
    with pytest.raises(DatasetError, match=r"multi_hot.npz: .*expected 8 rows as in day_1_labels"):
        open_split(tmp_path, "torchrec_multi_hot")
