"""Damaged datasets: each kind of damage is found, with the values in the error's fields."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from dataset import DatasetError, convert, metadata, open_dataset, open_split, reader, validate
from tests.support.dataset.hand_written import VOCAB_SIZES, narrow, random_arrays, write_raw

SAMPLES = 640


@pytest.fixture(scope="module")
def written(tmp_path_factory, shared_rng):
    """A folder with splits that this project wrote, by name of the layout."""
    folder = tmp_path_factory.mktemp("written")
    write_raw(folder / "train_data.bin", random_arrays(SAMPLES, shared_rng("test_damage")))
    raw = open_split(folder / "train_data.bin", vocab_sizes=VOCAB_SIZES)
    for layout in ("three_file", "per_table"):
        convert.convert_split(raw, str(folder / layout), layout, progress=False)
    return folder


@pytest.fixture
def three_file(written, tmp_path):
    """A copy of the three-file split."""
    return shutil.copytree(written / "three_file", tmp_path / "train")


@pytest.fixture(params=["three_file", "per_table"])
def split(request, written, tmp_path):
    """A copy of the split in each layout."""
    return shutil.copytree(written / request.param, tmp_path / "train")


def edit_metadata(folder, change):
    path = folder / "metadata.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def data_files(folder):
    return sorted(name for name in os.listdir(folder) if name.endswith(".bin"))


def problems(folder):
    return validate.validate(open_split(folder), progress=False)[1]


@pytest.mark.parametrize("change", [-1, 2])
def test_open_split_refuses_a_file_of_another_size(split, change):
    for name in data_files(split):
        size = os.path.getsize(split / name)
        os.truncate(split / name, size + change)
        with pytest.raises(DatasetError) as caught:
            open_split(split)
        assert caught.value.path == str(split / name)
        assert (caught.value.expected, caught.value.found) == (size, size + change)
        os.truncate(split / name, size)


def test_open_split_refuses_a_missing_file(split):
    for name in data_files(split):
        (split / name).rename(split / "away")
        with pytest.raises(DatasetError) as caught:
            open_split(split)
        assert caught.value.path == str(split / name)
        (split / "away").rename(split / name)


def test_open_split_refuses_an_unreadable_file(three_file, monkeypatch):
    # Root can read everything, so the check is replaced.
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("dense.bin"))
    with pytest.raises(DatasetError, match="Permission denied") as caught:
        open_split(three_file)
    assert caught.value.path == str(three_file / "dense.bin")


def test_open_split_refuses_edited_metadata(three_file):
    stored = (three_file / "metadata.json").read_text()
    for change in ({"samples": SAMPLES - 1}, {"dense_transform": "log(x+3)"}, {"note": "x"}):
        (three_file / "metadata.json").write_text(stored)
        edit_metadata(three_file, lambda content, change=change: content.update(change))
        with pytest.raises(DatasetError) as caught:
            open_split(three_file)
        assert caught.value.path == str(three_file / "metadata.json")
        assert caught.value.field == "fingerprint"


@pytest.mark.parametrize(("change", "field", "found"), [
    (lambda c: c.update(format_version=3), "format_version", 3),
    (lambda c: c.pop("samples"), "samples", None),
    (lambda c: c.update(samples=-1), "samples", -1),
    (lambda c: c.update(vocab_sizes=[5, -1]), "vocab_sizes[1]", -1),
    (lambda c: c["columns"][0].pop("dtype"), "columns[0].dtype", None),
    (lambda c: c["columns"][0].update(file="../label.bin"), "columns[0].file", "../label.bin"),
])  # fmt: skip
def test_open_split_refuses_malformed_metadata(three_file, change, field, found):
    edit_metadata(three_file, change)
    with pytest.raises(DatasetError) as caught:
        open_split(three_file)
    assert caught.value.path == str(three_file / "metadata.json")
    assert (caught.value.field, caught.value.found) == (field, found)


@pytest.mark.parametrize(("text", "field", "found"), [
    ("{", None, None), ("{}", "vocab_sizes", None),
    ('{"vocab_sizes": [5, 6], "dense_raw_type": "float64"}', "dense_raw_type", "float64"),
    ('{"vocab_sizes": [5, 6], "hotness_per_table": [3]}', "hotness_per_table", 1),
    ('{"vocab_sizes": [5, 6], "hotness_per_table": [3, 0]}', "hotness_per_table[1]", 0),
    ('{"vocab_sizes": [5, 6], "dense_transform": "none"}', "format_version", None),
    ('{"vocab_sizes": [5, 6], "dense_log": "True"}', "dense_log", "True"),
])  # fmt: skip
def test_open_split_refuses_malformed_seed_metadata(three_file, text, field, found):
    (three_file / "metadata.json").write_text(text)
    with pytest.raises(DatasetError) as caught:
        open_split(three_file)
    assert caught.value.path == str(three_file / "metadata.json")
    assert (caught.value.field, caught.value.found) == (field, found)


def test_open_split_refuses_metadata_of_an_unknown_layout(three_file):
    def rename(content):
        content["layout"] = "four_file"
        content["fingerprint"] = metadata.fingerprint(content)

    edit_metadata(three_file, rename)
    with pytest.raises(DatasetError) as caught:
        open_split(three_file)
    assert (caught.value.field, caught.value.found) == ("layout", "four_file")


def test_open_split_refuses_a_wrong_number_of_vocabulary_sizes(split):
    one_file = (split / "category.bin").exists()
    for sizes, table in ((VOCAB_SIZES[:-1], 7), ([*VOCAB_SIZES, 9], 8)):
        (split / "metadata.json").write_text(json.dumps({"vocab_sizes": sizes}))
        with pytest.raises(DatasetError) as caught:
            open_split(split)
        name = "category.bin" if one_file else f"category_{table}.bin"
        assert caught.value.path == str(split / name)


def swap(folder, one, other):
    os.rename(folder / one, folder / "away")
    os.rename(folder / other, folder / one)
    os.rename(folder / "away", folder / other)


def test_validate_finds_swapped_files_of_equal_sizes(written, tmp_path):
    folder = shutil.copytree(written / "per_table", tmp_path / "train")
    # Tables 2 and 3 have the same dtype: only the content differs.
    swap(folder, "category_2.bin", "category_3.bin")
    found = [line for line in problems(folder) if str(folder / "category_2.bin") in line]
    assert any("table 2, sample" in line for line in found)
    assert any("the digest of category_3.bin" in line for line in found)


def set_value(folder, table, sample, value):
    """Overwrites one stored id."""
    one = (folder / "category.bin").exists()
    path = folder / ("category.bin" if one else f"category_{table}.bin")
    ids = np.memmap(path, np.int32 if one else narrow(VOCAB_SIZES[table]), "r+")
    ids[sample * len(VOCAB_SIZES) + table if one else sample] = value
    ids.flush()


def refused_by_reader(folder, *shown, error=tf.errors.InvalidArgumentError):
    """Checks that reading the split raises an error that contains the texts."""
    with pytest.raises(error) as caught:
        list(reader.batches(open_split(folder), SAMPLES))
    for text in shown:
        assert text in str(caught.value)


@pytest.mark.parametrize(("table", "value"), [(0, 5), (0, -1), (3, 1000), (3, -7), (6, 200000)])
def test_validate_finds_an_id_outside_its_vocabulary(split, table, value):
    set_value(split, table, 600, value)
    found = problems(split)
    assert any(f"table {table}, sample 600" in line and f"found {value}" in line for line in found)
    assert any("digest" in line for line in found)


def test_reader_refuses_an_id_outside_its_vocabulary(split):
    set_value(split, 6, 600, 200000)
    refused_by_reader(split, "sample 600", "200000")


def test_invalid_label_is_found(split):
    path = split / "label.bin"
    labels = np.memmap(path, np.uint8 if os.path.getsize(path) == SAMPLES else np.int32, "r+")
    labels[599] = 2
    labels.flush()
    assert any(f"{path}: sample 599" in line and "found 2" in line for line in problems(split))
    refused_by_reader(split, str(path), "sample 599")


def test_dense_value_without_a_finite_transform_is_found(split):
    path = split / "dense.bin"
    halves = os.path.getsize(path) == SAMPLES * 26
    dense = np.memmap(path, np.float16 if halves else np.int32, "r+").reshape(-1, 13)
    dense[77, 5] = np.nan if halves else -1
    dense.flush()
    found = "nan" if halves else "log(x+1) of -1"
    place = f"{path}: sample 77, dense feature 5"
    assert any(place in line and found in line for line in problems(split))
    refused_by_reader(split, str(path), "sample 77, value 5")


@pytest.mark.parametrize(
    ("act", "error"),
    [("remove", tf.errors.NotFoundError), ("truncate", tf.errors.DataLossError)],
)
def test_reader_refuses_a_file_that_changes_while_reading(three_file, act, error):
    batches = iter(reader.batches(open_split(three_file), 2, ahead=reader.ReadAhead(prefetch=1)))
    next(batches)
    path = three_file / "label.bin"
    if act == "remove":
        path.unlink()
    else:
        os.truncate(path, 40)
    with pytest.raises(error, match=r"label\.bin"):
        for _ in batches:
            pass


def test_open_split_refuses_an_incomplete_split(three_file):
    for name in [*data_files(three_file), "metadata.json"]:
        (three_file / name).unlink()
    (three_file / "label.bin.partial").touch()
    with pytest.raises(DatasetError, match=r"label\.bin\.partial") as caught:
        open_split(three_file)
    assert caught.value.path == str(three_file)
    assert caught.value.expected == "metadata.json"


def test_open_refuses_missing_folders(tmp_path, three_file):
    (tmp_path / "empty").mkdir()
    for function, given, named in (
        (open_split, "nowhere", "nowhere"),
        (open_dataset, "nowhere", "nowhere"),
        (open_dataset, ".", "test"),
        (open_dataset, "empty", "empty"),
    ):
        with pytest.raises(DatasetError) as caught:
            function(tmp_path / given)
        assert caught.value.path == str(tmp_path / named)


def test_open_split_refuses_different_sample_counts_without_metadata(split):
    (split / "metadata.json").unlink()
    labels = split / "label.bin"
    size = os.path.getsize(split / "dense.bin")
    os.truncate(labels, os.path.getsize(labels) // SAMPLES * (SAMPLES - 1))
    with pytest.raises(DatasetError) as caught:
        open_split(split, vocab_sizes=VOCAB_SIZES)
    assert caught.value.path == str(split / "dense.bin")
    assert (caught.value.expected, caught.value.found) == (size // SAMPLES * (SAMPLES - 1), size)
