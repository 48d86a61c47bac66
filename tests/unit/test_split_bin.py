"""split_bin.py, compared with NumPy on the same raw file."""

import json
import os

import numpy as np
import pytest

import split_bin
from dataset import DatasetError, open_dataset, open_split
from dataset.chunks import CHUNK_SAMPLES
from tests.support.dataset.hand_written import VOCAB_SIZES, narrow, random_arrays, write_raw

SIZES = json.dumps(VOCAB_SIZES)


@pytest.fixture
def raw(tmp_path, rng):
    """(path, arrays) of two full chunks and a partial one."""
    arrays = random_arrays(2 * CHUNK_SAMPLES + 777, rng)
    write_raw(tmp_path / "train_data.bin", arrays)
    return tmp_path / "train_data.bin", arrays


def split(*arguments):
    return split_bin.main([str(argument) for argument in arguments])


def fails(capsys, *arguments):
    """Runs split_bin.py, which must fail; returns the last line on standard error."""
    assert split(*arguments) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message.splitlines()[-1]


def test_three_file_layout_is_a_copy_of_the_bytes(tmp_path, raw):
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
    # The keys of the seed benchmark's reader.
    assert metadata["dense_log"] is True
    for key in ("label_raw_type", "dense_raw_type", "category_raw_type"):
        assert metadata[key] == "int32"


def test_per_table_layout_is_narrowed_and_transformed(tmp_path, raw):
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


def test_seed_benchmarks_arguments_are_accepted(tmp_path, rng):
    path = tmp_path / "raw.bin"
    write_raw(path, random_arrays(100, rng))
    status = split(
        path, tmp_path / "train", "--slot_size_array", str(VOCAB_SIZES), "--dense_type", "int32",
        "--label_type", "int32", "--category_type", "int32", "--dense_log", "True",
    )  # fmt: skip
    assert status == 0
    assert open_split(tmp_path / "train").dense_transform == "log(x+3)"
    split(path, tmp_path / "plain", "--slot_size_array", SIZES, "--dense_log", "False")
    assert open_split(tmp_path / "plain").dense_transform == "none"


def test_sizes_come_from_the_side_file(tmp_path, rng):
    (tmp_path / "vocab_sizes.json").write_text(SIZES)
    write_raw(tmp_path / "raw.bin", random_arrays(100, rng))
    assert split(tmp_path / "raw.bin", tmp_path / "train") == 0
    assert open_split(tmp_path / "train").vocab_sizes == VOCAB_SIZES


def test_sizes_come_from_a_scan(tmp_path, rng):
    sizes = [3 + 5 * t for t in range(26)]
    arrays = random_arrays(CHUNK_SAMPLES + 5, rng, sizes)
    write_raw(tmp_path / "train_data.bin", arrays)
    assert split(tmp_path / "train_data.bin", tmp_path / "train") == 0
    assert open_split(tmp_path / "train").vocab_sizes == sizes


def test_scan_refuses_a_negative_id(tmp_path, rng):
    arrays = random_arrays(100, rng, [10] * 26)
    arrays.ids[7, 3] = -5
    path = tmp_path / "train_data.bin"
    write_raw(path, arrays)
    with pytest.raises(DatasetError) as caught:
        split_bin.scan_vocab_sizes(str(path), progress=False)
    assert (caught.value.path, caught.value.table, caught.value.found) == (str(path), 3, -5)


def test_test_split_takes_the_sizes_of_train(tmp_path, raw, capsys):
    path, arrays = raw
    assert split(path, tmp_path / "train", "--vocab_sizes", SIZES) == 0
    assert split(path, tmp_path / "test") == 0
    train, test = open_dataset(tmp_path)
    assert train.vocab_sizes == test.vocab_sizes == VOCAB_SIZES
    other = json.dumps([*VOCAB_SIZES[:-1], 4])
    message = fails(capsys, path, tmp_path / "test", "--vocab_sizes", other, "--overwrite")
    assert "--vocab_sizes" in message and "table 7" in message
    arrays.ids[90000, 6] = VOCAB_SIZES[6]
    write_raw(tmp_path / "test_data.bin", arrays)
    message = fails(capsys, tmp_path / "test_data.bin", tmp_path / "test", "--overwrite")
    assert "table 6, sample 90000" in message and "found 200000" in message


@pytest.mark.parametrize(("column", "value", "shown", "layout"), [
    (0, 2, "label", []), (0, -1, "label", ["--split_categories"]),
    (4, -1, "dense feature 3", []), (13, -9, "dense feature 12", ["--split_categories"]),
    (14, 5, "table 0", []), (21, -1, "table 7", ["--split_categories"]),
])  # fmt: skip
def test_invalid_value_stops_and_leaves_no_file(
    tmp_path, raw, capsys, column, value, shown, layout
):
    path, _ = raw
    words = np.memmap(path, np.int32, "r+").reshape(-1, 14 + len(VOCAB_SIZES))
    words[70000, column] = value
    words.flush()
    found = fails(capsys, path, tmp_path / "train", "--vocab_sizes", SIZES, *layout)
    for text in (str(path), "sample 70000", shown, str(value)):
        assert text in found
    assert os.listdir(tmp_path / "train") == []


@pytest.mark.parametrize(("sizes", "shown"), [
    ("1,,2", "--vocab_sizes"), ("[1, 2.5]", "--vocab_sizes"), ("[1, 0]", "table 1"),
    ("[5, 6, 7]", "68 bytes"),
])  # fmt: skip
def test_wrong_sizes_are_refused(tmp_path, rng, capsys, sizes, shown):
    path = tmp_path / "train_data.bin"
    write_raw(path, random_arrays(100, rng))
    assert shown in fails(capsys, path, tmp_path / "train", "--vocab_sizes", sizes)


@pytest.mark.parametrize("options", [[], ["--vocab_sizes", SIZES]])
def test_wrong_sources_are_refused(tmp_path, rng, capsys, options):
    write_raw(tmp_path / "cut.bin", random_arrays(100, rng))
    os.truncate(tmp_path / "cut.bin", 100 * 88 - 1)
    (tmp_path / "empty.bin").touch()
    for name in ("none.bin", "cut.bin", "empty.bin"):
        assert str(tmp_path / name) in fails(capsys, tmp_path / name, tmp_path / "train", *options)
    assert not (tmp_path / "train").exists()


@pytest.mark.parametrize("jobs", [1, 3])
def test_bytes_do_not_depend_on_the_threads(tmp_path, raw, jobs):
    path, _ = raw
    split(path, tmp_path / "a", "--vocab_sizes", SIZES, "--jobs", jobs)
    split(path, tmp_path / "b", "--vocab_sizes", SIZES, "--jobs", 2)
    assert open_split(tmp_path / "a").fingerprint == open_split(tmp_path / "b").fingerprint
