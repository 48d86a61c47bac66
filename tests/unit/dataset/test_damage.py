"""Each way in which a dataset can be damaged has its own clear error, in time."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from dataset import DatasetError, convert, metadata, open_dataset, open_split, reader, validate
from tests.support.dataset.hand_written import VOCAB_SIZES, random_arrays, write_raw

SAMPLES = 640


@pytest.fixture(params=["three_file", "per_table"])
def split(request, tmp_path):
    """A split folder that the project wrote, in both layouts."""
    write_raw(tmp_path / "train_data.bin", random_arrays(SAMPLES))
    raw = open_split(tmp_path / "train_data.bin", vocab_sizes=VOCAB_SIZES)
    convert.convert_split(raw, str(tmp_path / "train"), request.param, progress=False)
    return tmp_path / "train"


def edit_metadata(folder, change):
    path = folder / "metadata.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def data_files(folder):
    return sorted(name for name in os.listdir(folder) if name.endswith(".bin"))


def problems(folder):
    return validate.validate(open_split(folder), progress=False)[1]


def test_untouched_split_is_valid(split):
    assert problems(split) == []


def test_truncated_file(split):
    for name in data_files(split):
        size = os.path.getsize(split / name)
        os.truncate(split / name, size - 1)
        with pytest.raises(
            DatasetError, match=f"{name}: truncated: expected {size} bytes .* found {size - 1}"
        ):
            open_split(split)
        os.truncate(split / name, size)


def test_extended_file(split):
    for name in data_files(split):
        size = os.path.getsize(split / name)
        os.truncate(split / name, size + 2)
        with pytest.raises(
            DatasetError, match=f"{name}: too long: expected {size} bytes .* found {size + 2}"
        ):
            open_split(split)
        os.truncate(split / name, size)


def test_missing_file(split):
    for name in data_files(split):
        (split / name).rename(split / "away")
        with pytest.raises(DatasetError, match=f"{name}: missing file"):
            open_split(split)
        (split / "away").rename(split / name)


def test_folder_in_place_of_a_file(split):
    (split / "label.bin").unlink()
    (split / "label.bin").mkdir()
    with pytest.raises(DatasetError, match=r"label.bin: .*is a folder: expected a regular file"):
        open_split(split)


def test_unreadable_file(split, monkeypatch):
    # The super user may read everything, so the answer of the system is replaced.
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("dense.bin"))
    with pytest.raises(DatasetError, match=r"dense.bin: cannot be read: Permission denied"):
        open_split(split)


CHANGES = {
    "samples": lambda c: c.update(samples=c["samples"] - 1),
    "vocab_sizes": lambda c: c["vocab_sizes"].__setitem__(3, 2000),
    "transform": lambda c: c.update(dense_transform="log(x+3)"),
    "attainable_auc": lambda c: c.update(attainable_auc=0.99),
    "layout": lambda c: c.update(layout="raw"),
    "digest": lambda c: c["columns"][0].update(digest="sha256-blocks:00"),
    "order": lambda c: c["columns"].reverse(),
    "width": lambda c: c["columns"][1].update(width=12),
    "dtype": lambda c: c["columns"][0].update(dtype="float32"),
    "extra": lambda c: c.update(note="x"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_flipped_metadata_field(split, change):
    edit_metadata(split, change)
    with pytest.raises(DatasetError, match=r"metadata.json: was changed after it was written"):
        open_split(split)


@pytest.mark.parametrize(("change", "message"), [
    (lambda c: c.update(format_version=2), "format_version 2: this release reads 1"),
    (lambda c: c.pop("samples"), "samples: is missing"),
    (lambda c: c.update(samples="640"), "samples: expected int, found '640'"),
    (lambda c: c.update(samples=-1), "samples: expected int >= 0, found -1"),
    (lambda c: c.update(samples=True), "samples: expected int, found true"),
    (lambda c: c.update(vocab_sizes=[]), "vocab_sizes: expected list of length >= 1"),
    (lambda c: c.update(vocab_sizes=[5, -1]), r"vocab_sizes\[1\]: expected int >= 1, found -1"),
    (lambda c: c["columns"].__setitem__(0, 3), r"columns\[0\]: expected object, found 3"),
    (lambda c: c["columns"][0].pop("dtype"), r"columns\[0\].dtype: is missing"),
    (lambda c: c["columns"][0].update(file="../label.bin"), "plain file name, found '../label"),
    (lambda c: c.update(attainable_auc="high"), "attainable_auc: expected float.*, found 'high'"),
    (lambda c: c.update(fingerprint="sha256:0"), "fingerprint expected sha256:0, found sha256:"),
])  # fmt: skip
def test_malformed_metadata(split, change, message):
    edit_metadata(split, change)
    with pytest.raises(DatasetError, match=rf"metadata.json: .*{message}"):
        open_split(split)


@pytest.mark.parametrize(("text", "message"), [
    ("{", "is not JSON"), ("[1]", "expected object, found a list of 1"), ("", "is not JSON"),
    ("{}", "vocab_sizes: is missing"),
    ('{"vocab_sizes": [5, 6], "dense_raw_type": "float64"}',
     "dense_raw_type: expected one of int32, float32, found 'float64'"),
    ('{"vocab_sizes": [5, 6], "category_raw_type": "int64"}',
     "category_raw_type: expected one of int32, found 'int64'"),
    ('{"vocab_sizes": [5, 6], "hotness_per_table": [3, 1]}',
     "hotness_per_table: expected 1 for every table, found 3, 1: multi-hot data is not supported"),
    ('{"vocab_sizes": [5, 6], "hotness_per_table": "3,1"}', "hotness_per_table: expected list"),
    ('{"vocab_sizes": [5, 6], "vocab_sizes": [7, 8]}', "the field 'vocab_sizes' occurs twice"),
    ('{"vocab_sizes": [5, 6], "dense_transform": "none"}', "format_version: is missing, found den"),
    pytest.param("[" * 100_000, "is nested too deep", id="deep"),
    ('{"vocab_sizes": [5, 6], "dense_log": "True"}', "dense_log: expected bool, found 'True'"),
])  # fmt: skip
def test_metadata_that_is_none(split, text, message):
    (split / "metadata.json").write_text(text)
    with pytest.raises(DatasetError, match=f"metadata.json: .*{message}"):
        open_split(split)


def test_own_metadata_of_an_unknown_layout(split):
    def rename(content):
        content["layout"] = "four_file"
        content["fingerprint"] = metadata.fingerprint(content)

    edit_metadata(split, rename)
    with pytest.raises(DatasetError, match="layout: expected three_file or per_table, found 'fo"):
        open_split(split)


def test_vocabulary_of_the_wrong_length(split):
    (split / "metadata.json").write_text(json.dumps({"vocab_sizes": VOCAB_SIZES[:-1]}))
    message = (
        "category.bin: too long"
        if (split / "category.bin").exists()
        else ("category_7.bin: expected 7 files category_0.bin to category_6.bin")
    )
    with pytest.raises(DatasetError, match=message):
        open_split(split)
    (split / "metadata.json").write_text(json.dumps({"vocab_sizes": [*VOCAB_SIZES, 9]}))
    message = "category.bin: trunc" if (split / "category.bin").exists() else "category_8.bin: miss"
    with pytest.raises(DatasetError, match=message):
        open_split(split)


def test_swapped_columns(split):
    names = data_files(split)
    if "category.bin" in names:
        os.rename(split / "label.bin", split / "away")
        os.rename(split / "dense.bin", split / "label.bin")
        os.rename(split / "away", split / "dense.bin")
        with pytest.raises(DatasetError, match=r"label.bin: too long"):
            open_split(split)
        return
    # Tables 2 and 3 are stored alike: only the content tells them apart.
    os.rename(split / "category_2.bin", split / "away")
    os.rename(split / "category_3.bin", split / "category_2.bin")
    os.rename(split / "away", split / "category_3.bin")
    found = "\n".join(problems(split))
    assert "category_2.bin: content was changed" in found
    assert "it is that of category_3.bin (were the files swapped?)" in found
    assert "category_2.bin: table 2, sample" in found


def set_value(folder, table, sample, value):
    """Overwrites one stored id."""
    if (folder / "category.bin").exists():
        ids = np.memmap(folder / "category.bin", np.int32, "r+").reshape(-1, len(VOCAB_SIZES))
        ids[sample, table] = value
    else:
        dtype = {1: np.int8, 2: np.int16, 4: np.int32}[
            os.path.getsize(folder / f"category_{table}.bin") // SAMPLES
        ]
        ids = np.memmap(folder / f"category_{table}.bin", dtype, "r+")
        ids[sample] = value
    ids.flush()


@pytest.mark.parametrize(("table", "value"), [(0, 5), (0, -1), (3, 1000), (3, -7), (6, 200000)])
def test_id_outside_its_vocabulary(split, table, value):
    set_value(split, table, 600, value)
    found = problems(split)
    bound = VOCAB_SIZES[table] - 1
    assert any(
        f"table {table}, sample 600: id {value} is outside the vocabulary: expected 0 to {bound}"
        in problem
        for problem in found
    )
    assert any("content was changed: digest expected" in problem for problem in found)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"sample 600, .*id {value} is outside"
    ):
        list(reader.batches(open_split(split), 64))


def test_label_2(split):
    path = split / "label.bin"
    labels = np.memmap(path, np.uint8 if os.path.getsize(path) == SAMPLES else np.int32, "r+")
    labels[599] = 2
    labels.flush()
    assert any("label.bin: sample 599: label 2: expected 0 or 1" in p for p in problems(split))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"label.bin: sample 599, .*expected 0 or"
    ):
        list(reader.batches(open_split(split), 64))


def test_dense_value_without_a_finite_result(split):
    path = split / "dense.bin"
    narrow = os.path.getsize(path) == SAMPLES * 26
    dense = np.memmap(path, np.float16 if narrow else np.int32, "r+").reshape(-1, 13)
    dense[77, 5] = np.nan if narrow else -1
    dense.flush()
    message = "value nan is nan" if narrow else r"value -1 under log(x+1) gives -inf"
    assert any(
        f"dense.bin: sample 77, dense feature 5: {message}" in problem
        for problem in problems(split)
    )
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"dense.bin: sample 77, value 5: .*not finite"
    ):
        list(reader.batches(open_split(split), 64))


@pytest.mark.parametrize("act", ["remove", "truncate"])
def test_file_lost_while_reading(split, act):
    batches = iter(reader.batches(open_split(split), 2, ahead=reader.ReadAhead(prefetch=1)))
    next(batches)
    path = split / "label.bin"
    if act == "remove":
        path.unlink()
        error, message = tf.errors.NotFoundError, "label.bin: was removed or replaced"
    else:
        os.truncate(path, 40)
        error, message = tf.errors.DataLossError, "label.bin: at byte .*: truncated: expected"
    with pytest.raises(error, match=message):
        for _ in batches:
            pass


def test_file_removed_after_opening(split):
    description = open_split(split)
    (split / "dense.bin").unlink()
    with pytest.raises(tf.errors.NotFoundError, match=r"dense.bin: cannot be opened: No such file"):
        list(reader.batches(description, 64))


def test_unfinished_split(split):
    for name in [*data_files(split), "metadata.json"]:
        (split / name).unlink()
    (split / "label.bin.partial").touch()
    with pytest.raises(DatasetError, match=r"holds an unfinished split \(label.bin.partial"):
        open_split(split)


def test_missing_folders(tmp_path, split):
    with pytest.raises(DatasetError, match="nowhere: no such file or folder"):
        open_split(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"test: missing: .* has no such split"):
        open_dataset(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="is not a dataset: expected folders train and test"):
        open_dataset(tmp_path / "empty")


def test_sample_counts_that_differ_without_metadata(split):
    (split / "metadata.json").unlink()
    labels = split / "label.bin"
    os.truncate(labels, os.path.getsize(labels) // SAMPLES * (SAMPLES - 1))
    with pytest.raises(DatasetError, match=r"dense.bin: too long: expected .*\(639 samples of"):
        open_split(split, vocab_sizes=VOCAB_SIZES)
