"""Multi-hot data of other projects: TorchRec's .npz days, HugeCTR's raw records."""

import json

import numpy as np
import pytest

from dataset import convert, open_dataset, open_split
from dataset.chunks import ChunkReader, transformed_dense
from tests.support.dataset.hand_written import VOCAB_SIZES, random_arrays
from tests.unit.dataset.test_torchrec import (
    HOTNESS,
    random_bags,
    remove_one_hot,
    write_multi_hot_days,
)


def stored(description):
    """Labels, ids of each table and transformed dense values of a split of one chunk."""
    with ChunkReader(description) as reader:
        chunk = reader.read(0, description.samples)
        ids = np.hstack([part.astype(np.int64) for part in chunk.ids])
        return chunk.label.astype(int), ids, transformed_dense(chunk, description.dense_column)


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("target", ["per_table", "three_file"])
def test_days_with_multi_hot_ids_are_converted(tmp_path, rng, target, capsys):
    arrays, bags = random_arrays(120, rng), random_bags(120, rng)
    write_multi_hot_days(tmp_path / "a", arrays, bags, [50, 1, 40, 29])
    remove_one_hot(tmp_path / "a")
    options = ("--layout", target, "--applied_transform", "log(x+1)")
    assert run(tmp_path / "a", tmp_path / "b", *options) == 0
    assert capsys.readouterr().err == ""
    for split, rows in zip(open_dataset(tmp_path / "b"), (slice(0, 91), slice(91, 106))):
        assert (split.layout, split.bags.hotness) == (target, HOTNESS)
        label, ids, dense = stored(split)
        np.testing.assert_array_equal(label, arrays.label[rows])
        np.testing.assert_array_equal(ids, np.hstack(bags)[rows])
        np.testing.assert_allclose(dense, np.log(arrays.dense[rows] + 1.0), 2**-11, 1e-7)


def write_hugectr(path, arrays, bags):
    """Records as from HugeCTR's samples/dlrm/preprocessing/convert_to_raw.py.

    That script copies TorchRec's values: dense ones are log(x+3) in TorchRec 0.3.2, the version of
    the benchmark's reference.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    dense = np.log(arrays.dense.astype(np.float64) + 3).astype("<f4").view("<i4")
    np.hstack([arrays.label[:, None], dense, *bags]).astype("<i4").tofile(path)


@pytest.mark.parametrize("target", ["per_table", "three_file"])
def test_hugectr_records_are_converted(tmp_path, rng, target, capsys):
    parts = [(random_arrays(n, rng), random_bags(n, rng)) for n in (90, 31)]
    for name, part in zip(("train", "test"), parts):
        write_hugectr(tmp_path / "a" / f"{name}_data.bin", *part)
    facts = {"vocab_sizes": VOCAB_SIZES, "hotness_per_table": list(HOTNESS)}
    (tmp_path / "a" / "metadata.json").write_text(json.dumps(facts))
    options = ("--layout", target, "--dense_type", "float32", "--dense_transform", "none")
    options += ("--applied_transform", "log(x+3)")
    assert run(tmp_path / "a", tmp_path / "b", *options) == 0
    assert capsys.readouterr().err == ""
    for split, (arrays, bags) in zip(open_dataset(tmp_path / "b"), parts):
        assert (split.bags.hotness, split.effective_transform) == (HOTNESS, "log(x+3)")
        label, ids, dense = stored(split)
        np.testing.assert_array_equal(label, arrays.label)
        np.testing.assert_array_equal(ids, np.hstack(bags))
        np.testing.assert_allclose(dense, np.log(arrays.dense + 3.0), 2**-11, 1e-7)


def test_hugectr_records_without_their_type_say_which_flags_to_give(tmp_path, rng, capsys):
    write_hugectr(tmp_path / "a" / "train_data.bin", random_arrays(90, rng), random_bags(90, rng))
    facts = {"vocab_sizes": VOCAB_SIZES, "hotness_per_table": list(HOTNESS)}
    (tmp_path / "a" / "metadata.json").write_text(json.dumps(facts))
    assert run(tmp_path / "a" / "train_data.bin", tmp_path / "b", "--layout", "per_table") == 2
    error = capsys.readouterr().err
    assert "found float32" in error
    assert "--dense_type float32" in error
    assert "--dense_transform none" in error


def test_ids_outside_their_table_are_refused_where_they_are(tmp_path, rng, capsys):
    arrays, bags = random_arrays(24, rng), random_bags(24, rng)
    table, sample = int(rng.integers(0, len(HOTNESS))), int(rng.integers(0, 20))
    bags[table][sample, int(rng.integers(0, HOTNESS[table]))] = VOCAB_SIZES[table]
    write_multi_hot_days(tmp_path / "a", arrays, bags, [20, 4])
    remove_one_hot(tmp_path / "a")
    assert open_split(tmp_path / "a").samples == 24
    assert run(tmp_path / "a", tmp_path / "b", "--layout", "per_table") == 2
    error = capsys.readouterr().err
    assert f"day_0_sparse_multi_hot.npz: table {table}, sample {sample}: id: expected" in error
