"""split_bin.py against NumPy on the same raw file."""

import json
import os

import numpy as np
import pytest

import split_bin
from dataset import destination, open_dataset, open_split
from dataset.chunks import CHUNK_SAMPLES
from tests.support.dataset.hand_written import VOCAB_SIZES, narrow, random_arrays, write_raw

SIZES = json.dumps(VOCAB_SIZES)


@pytest.fixture
def raw(tmp_path):
    # Two chunks and a bit, so that several threads and the last partial one take part.
    arrays = random_arrays(2 * CHUNK_SAMPLES + 777)
    write_raw(tmp_path / "train_data.bin", arrays)
    return tmp_path / "train_data.bin", arrays


def split(*arguments):
    return split_bin.main([str(argument) for argument in arguments])


def fails(capsys, *arguments):
    assert split(*arguments) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def test_three_file_is_a_byte_copy(tmp_path, raw):
    path, arrays = raw
    assert split(path, tmp_path / "out" / "train", "--vocab_sizes", SIZES) == 0
    folder = tmp_path / "out" / "train"
    assert (folder / "label.bin").read_bytes() == arrays.label.tobytes()
    assert (folder / "dense.bin").read_bytes() == arrays.dense.tobytes()
    assert (folder / "category.bin").read_bytes() == arrays.ids.tobytes()
    assert sorted(os.listdir(folder)) == ["category.bin", "dense.bin", "label.bin", "metadata.json"]
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["samples"] == len(arrays.label)
    assert metadata["vocab_sizes"] == VOCAB_SIZES
    assert metadata["dense_transform"] == "log(x+1)"
    # What the seed benchmark's reader looks for.
    assert metadata["dense_log"] is True
    for key in ("label_raw_type", "dense_raw_type", "category_raw_type"):
        assert metadata[key] == "int32"


def test_split_categories_narrows_and_transforms(tmp_path, raw):
    path, arrays = raw
    assert split(path, tmp_path / "train", "--vocab_sizes", SIZES, "--split_categories") == 0
    folder = tmp_path / "train"
    label = np.fromfile(folder / "label.bin", np.uint8)
    np.testing.assert_array_equal(label, arrays.label)
    dense = np.fromfile(folder / "dense.bin", np.float16).reshape(-1, 13)
    exact = np.log(arrays.dense + 1.0)
    assert (np.abs(dense - exact) <= np.spacing(exact.astype(np.float16)) * 0.501).all()
    for table, rows in enumerate(VOCAB_SIZES):
        ids = np.fromfile(folder / f"category_{table}.bin", narrow(rows))
        np.testing.assert_array_equal(ids, arrays.ids[:, table])
    assert open_split(folder).dense_transform == "none"


def test_seed_arguments(tmp_path, raw):
    path, _arrays = raw
    status = split(
        path, tmp_path / "train", "--slot_size_array", str(VOCAB_SIZES), "--dense_type", "int32",
        "--label_type", "int32", "--category_type", "int32", "--dense_log", "True",
    )  # fmt: skip
    assert status == 0
    assert open_split(tmp_path / "train").dense_transform == "log(x+3)"
    split(path, tmp_path / "plain", "--slot_size_array", SIZES, "--dense_log", "False")
    assert open_split(tmp_path / "plain").dense_transform == "none"


def test_float_words(tmp_path):
    arrays = random_arrays(500)
    words = np.hstack([arrays.label[:, None], arrays.dense, arrays.ids]).astype(np.int32)
    dense = np.random.default_rng(3).uniform(0, 9, (500, 13)).astype(np.float32)
    words[:, :1] = arrays.label[:, None].astype(np.float32).view(np.int32)
    words[:, 1:14] = dense.view(np.int32)
    words.tofile(tmp_path / "raw.bin")
    types = ["--dense_type", "float32", "--label_type", "float32", "--dense_transform", "none"]
    assert split(tmp_path / "raw.bin", tmp_path / "out", "--vocab_sizes", SIZES, *types) == 0
    stored = np.fromfile(tmp_path / "out" / "dense.bin", np.float32).reshape(-1, 13)
    np.testing.assert_array_equal(stored, dense)
    label = np.fromfile(tmp_path / "out" / "label.bin", np.float32)
    np.testing.assert_array_equal(label, arrays.label)


def test_sizes_from_the_side_file(tmp_path, raw):
    (tmp_path / "vocab_sizes.json").write_text(SIZES)
    assert split(raw[0], tmp_path / "train") == 0
    assert open_split(tmp_path / "train").vocab_sizes == VOCAB_SIZES


def test_sizes_from_a_scan(tmp_path):
    sizes = [3 + 5 * t for t in range(26)]
    arrays = random_arrays(CHUNK_SAMPLES + 5, sizes)
    write_raw(tmp_path / "train_data.bin", arrays)
    assert split(tmp_path / "train_data.bin", tmp_path / "train") == 0
    assert open_split(tmp_path / "train").vocab_sizes == sizes


def test_negative_id_in_a_scan(tmp_path, capsys):
    arrays = random_arrays(100, [10] * 26)
    arrays.ids[7, 3] = -5
    write_raw(tmp_path / "train_data.bin", arrays)
    message = fails(capsys, tmp_path / "train_data.bin", tmp_path / "train")
    assert "train_data.bin: table 3 has a negative id (-5)" in message


def test_test_split_takes_trains_vocabulary(tmp_path, raw, capsys):
    path, arrays = raw
    assert split(path, tmp_path / "train", "--vocab_sizes", SIZES) == 0
    assert split(path, tmp_path / "test") == 0
    train, test = open_dataset(tmp_path)
    assert train.vocab_sizes == test.vocab_sizes == VOCAB_SIZES
    other = json.dumps([*VOCAB_SIZES[:-1], 4])
    message = fails(capsys, path, tmp_path / "test", "--vocab_sizes", other, "--overwrite")
    assert "are not those of" in message
    arrays.ids[90000, 6] = VOCAB_SIZES[6]
    write_raw(tmp_path / "test_data.bin", arrays)
    message = fails(capsys, tmp_path / "test_data.bin", tmp_path / "test", "--overwrite")
    assert "table 6, sample 90000: id 200000 is outside the vocabulary: expected 0 to" in message


def test_attainable_auc_is_carried(tmp_path):
    write_raw(tmp_path / "test_data.bin", random_arrays(10))
    facts = {"files": {"test_data.bin": {"attainable_auc": 0.8125}}}
    (tmp_path / "generator.json").write_text(json.dumps(facts))
    assert split(tmp_path / "test_data.bin", tmp_path / "test", "--vocab_sizes", SIZES) == 0
    assert open_split(tmp_path / "test").attainable_auc == 0.8125


@pytest.mark.parametrize(("column", "value", "message"), [
    (0, 2, "sample 70000: label 2: expected 0 or 1"),
    (0, -1, "sample 70000: label -1: expected 0 or 1"),
    (4, -1, "sample 70000, dense feature 3: value -1 under log(x+1) gives -inf"),
    (13, -9, "sample 70000, dense feature 12: value -9 under log(x+1) gives nan"),
    (14, 5, "table 0, sample 70000: id 5 is outside the vocabulary: expected 0 to 4"),
    (21, -1, "table 7, sample 70000: id -1 is outside the vocabulary: expected 0 to 2"),
])  # fmt: skip
@pytest.mark.parametrize("layout", [[], ["--split_categories"]])
def test_wrong_value_stops_and_leaves_nothing(
    tmp_path, raw, capsys, column, value, message, layout
):
    path, _ = raw
    words = np.memmap(path, np.int32, "r+").reshape(-1, 14 + len(VOCAB_SIZES))
    words[70000, column] = value
    words.flush()
    found = fails(capsys, path, tmp_path / "train", "--vocab_sizes", SIZES, *layout)
    assert message in found
    assert str(path) in found
    assert os.listdir(tmp_path / "train") == []


@pytest.mark.parametrize(("arguments", "message"), [
    (["--vocab_sizes", "[1, 2"], "--vocab_sizes: expected integers with commas between"),
    (["--vocab_sizes", "1,,2"], "--vocab_sizes: expected integers with commas between, found '1"),
    pytest.param(["--vocab_sizes", "[" * 100_000], "--vocab_sizes: expected integers", id="deep"),
    (["--vocab_sizes", "__import__('os').getcwd()"], "--vocab_sizes: expected integers with"),
    (["--vocab_sizes", "[1, 0]"], "vocabulary size of table 1 must be an integer from 1"),
    (["--vocab_sizes", "[1, 2.5]"], "--vocab_sizes: expected integers with commas between"),
    (["--vocab_sizes", "[5, 6, 7]"], "expected a multiple of 68 bytes"),
])  # fmt: skip
def test_wrong_sizes(tmp_path, capsys, arguments, message):
    write_raw(tmp_path / "train_data.bin", random_arrays(100))
    assert message in fails(capsys, tmp_path / "train_data.bin", tmp_path / "train", *arguments)


def test_wrong_sources(tmp_path, raw, capsys):
    missing = fails(capsys, tmp_path / "none.bin", tmp_path / "train", "--vocab_sizes", SIZES)
    assert "none.bin: missing file" in missing
    os.truncate(raw[0], os.path.getsize(raw[0]) - 1)
    message = fails(capsys, raw[0], tmp_path / "train", "--vocab_sizes", SIZES)
    assert "truncated or of another type: expected a multiple of 88 bytes" in message
    (tmp_path / "empty.bin").touch()
    message = fails(capsys, tmp_path / "empty.bin", tmp_path / "train", "--vocab_sizes", SIZES)
    assert "empty.bin: holds no samples" in message
    # Without sizes, which it would be scanned for.
    message = fails(capsys, tmp_path / "empty.bin", tmp_path / "train")
    assert "empty.bin: holds no samples" in message
    assert not (tmp_path / "train").exists()


def test_existing_split_is_kept_unless_told(tmp_path, raw, capsys):
    path, _ = raw
    assert split(path, tmp_path / "train", "--vocab_sizes", SIZES) == 0
    before = (tmp_path / "train" / "metadata.json").read_bytes()
    message = fails(capsys, path, tmp_path / "train", "--vocab_sizes", SIZES)
    assert "is there already" in message
    assert (tmp_path / "train" / "metadata.json").read_bytes() == before
    assert split(path, tmp_path / "train", "--vocab_sizes", SIZES, "--overwrite") == 0
    assert (tmp_path / "train" / "metadata.json").read_bytes() == before


def test_interrupted_split_is_no_dataset(tmp_path, raw, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(destination.atomic, "write_json", interrupt)
    assert split(raw[0], tmp_path / "train", "--vocab_sizes", SIZES) == 130
    assert "metadata.json" not in os.listdir(tmp_path / "train")


@pytest.mark.parametrize("jobs", [1, 3])
def test_same_bytes_whatever_the_threads(tmp_path, raw, jobs):
    path, _ = raw
    split(path, tmp_path / "a", "--vocab_sizes", SIZES, "--jobs", jobs)
    split(path, tmp_path / "b", "--vocab_sizes", SIZES, "--jobs", 2)
    assert open_split(tmp_path / "a").fingerprint == open_split(tmp_path / "b").fingerprint
