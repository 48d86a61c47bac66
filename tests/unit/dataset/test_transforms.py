"""The transform of stored dense values is recorded, kept in conversions, and checked."""

import json

import numpy as np
import pytest

import split_bin
from dataset import DatasetError, convert, metadata, open_dataset, open_split, transforms
from dataset.stored_types import Declared
from tests.support.dataset import layouts
from tests.support.dataset.hand_written import VOCAB_SIZES, random_arrays, write_raw

SIZES = json.dumps(VOCAB_SIZES)


@pytest.fixture(scope="module")
def arrays(shared_rng):
    """(train, test) samples whose counts fit float16."""
    rng = shared_rng("test_transforms")
    train, test = random_arrays(300, rng), random_arrays(70, rng)
    return tuple(a._replace(dense=np.minimum(a.dense, 60000)) for a in (train, test))


def run_convert(*arguments):
    return convert.main([str(argument) for argument in arguments])


def run_split(*arguments):
    return split_bin.main([str(argument) for argument in arguments])


def split_dataset(folder, arrays, *options):
    """Writes a dataset with split_bin.py."""
    for part, values in zip(("train", "test"), arrays):
        write_raw(folder / f"{part}.raw", values)
        words = ("--vocab_sizes", SIZES, *options)
        assert run_split(folder / f"{part}.raw", folder / part, *words) == 0
    return folder


def transforms_of(folder):
    """Returns {(reader's, applied, effective)} of both splits."""
    found = open_dataset(folder)
    return {(d.dense_transform, d.applied_transform, d.effective_transform) for d in found}


def edit_metadata(folder, **changes):
    """Changes fields of a metadata.json and its fingerprint; None removes a field."""
    path = folder / "metadata.json"
    content = json.loads(path.read_text()) | changes
    content = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(content | {"fingerprint": metadata.fingerprint(content)}))


@pytest.mark.parametrize("transform", ["none", "log(x+1)", "log(x+3)"])
def test_split_bin_and_convert_record_the_transform(tmp_path, arrays, transform):
    options = ("--dense_transform", transform)
    split_dataset(tmp_path / "a", arrays, *options)
    assert transforms_of(tmp_path / "a") == {(transform, "none", transform)}
    split_dataset(tmp_path / "b", arrays, *options, "--split_categories")
    assert transforms_of(tmp_path / "b") == {("none", transform, transform)}
    content = metadata.read(tmp_path / "b" / "train")
    assert content["applied_transform"] == transform
    assert run_convert(tmp_path / "a", tmp_path / "c", "--layout", "per_table") == 0
    assert transforms_of(tmp_path / "c") == {("none", transform, transform)}
    assert run_convert(tmp_path / "c", tmp_path / "d", "--layout", "three_file") == 0
    assert transforms_of(tmp_path / "d") == {("none", transform, transform)}
    assert run_convert(tmp_path / "d", tmp_path / "e", "--layout", "per_table") == 0
    assert transforms_of(tmp_path / "e") == {("none", transform, transform)}


FOREIGN = [
    (layouts.per_table, None), (layouts.deep_learning_examples, None), (layouts.torchrec, None),
    (layouts.mlperf, "log(x+1)"), (layouts.raw, "log(x+1)"), (layouts.three_file, "log(x+3)"),
]  # fmt: skip


@pytest.mark.parametrize(("write", "effective"), FOREIGN)
def test_transform_of_foreign_data_is_unknown_until_declared(
    tmp_path, arrays, write, effective, capsys
):
    write(tmp_path / "a", *arrays)
    assert {split.effective_transform for split in open_dataset(tmp_path / "a")} == {effective}
    if effective is None:
        found = open_dataset(tmp_path / "a", declared=Declared(applied_transform="log(x+3)"))
        assert {split.effective_transform for split in found} == {"log(x+3)"}
        assert {split.dense_transform for split in found} == {"none"}
        assert run_convert(tmp_path / "a", tmp_path / "b", "--layout", "per_table") == 0
        assert "--applied_transform" in capsys.readouterr().err
        assert transforms_of(tmp_path / "b") == {("none", None, None)}
        options = ("--layout", "per_table", "--applied_transform", "log(x+3)")
        assert run_convert(tmp_path / "a", tmp_path / "c", *options) == 0
        assert capsys.readouterr().err == ""
        assert transforms_of(tmp_path / "c") == {("none", "log(x+3)", "log(x+3)")}
        return
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path / "a", declared=Declared(applied_transform="log(x+3)"))
    assert caught.value.flag == "applied_transform"
    assert (caught.value.expected, caught.value.found) == ("none", "log(x+3)")
    assert transforms_of(tmp_path / "a") == {(effective, "none", effective)}


def test_open_dataset_refuses_a_declared_transform_that_contradicts_the_data(tmp_path, arrays):
    split_dataset(tmp_path, arrays, "--split_categories")
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path, declared=Declared(applied_transform="none"))
    assert (caught.value.expected, caught.value.found) == ("log(x+1)", "none")
    open_dataset(tmp_path, declared=Declared(applied_transform="log(x+1)"))


def test_convert_refuses_a_second_logarithm(tmp_path, arrays, capsys):
    split_dataset(tmp_path / "a", arrays, "--split_categories")
    assert run_convert(tmp_path / "a", tmp_path / "b", "--layout", "three_file") == 0
    options = ("--layout", "three_file", "--dense_transform", "log(x+3)")
    for source in ("a", "b"):  # float16 and float32
        assert run_convert(tmp_path / source, tmp_path / "c", *options) == 2
        message = capsys.readouterr().err
        assert "log(x+1)" in message and "log(x+3)" in message
        assert not (tmp_path / "c").exists()
    layouts.torchrec(tmp_path / "days", *arrays)
    assert run_convert(tmp_path / "days", tmp_path / "c", *options) == 2
    assert "--applied_transform none" in capsys.readouterr().err
    assert (
        run_convert(tmp_path / "days", tmp_path / "c", *options, "--applied_transform", "none") == 0
    )
    assert transforms_of(tmp_path / "c") == {("log(x+3)", "none", "log(x+3)")}


def test_convert_applies_a_logarithm_to_float16_counts(tmp_path, arrays):
    small = tuple(a._replace(dense=a.dense % 2000) for a in arrays)
    split_dataset(tmp_path / "a", small, "--split_categories", "--dense_transform", "none")
    options = ("--layout", "per_table", "--dense_transform", "log(x+1)")
    assert run_convert(tmp_path / "a", tmp_path / "b", *options) == 0
    assert transforms_of(tmp_path / "b") == {("none", "log(x+1)", "log(x+1)")}
    stored = np.fromfile(tmp_path / "b" / "train" / "dense.bin", np.float16).reshape(-1, 13)
    expected = np.log1p(small[0].dense.astype(np.float64))
    np.testing.assert_allclose(stored, expected, rtol=2**-10, atol=1e-6)


@pytest.mark.parametrize("pair", [("log(x+1)", "log(x+3)"), ("log(x+1)", None)])
def test_open_dataset_refuses_different_transforms(tmp_path, arrays, pair):
    for part, values, transform in zip(("train", "test"), arrays, pair):
        if transform is None:
            layouts.per_table(tmp_path / "foreign", *arrays)
            (tmp_path / "foreign" / "test").rename(tmp_path / part)
            (tmp_path / part / "metadata.json").write_text(json.dumps({"vocab_sizes": VOCAB_SIZES}))
            continue
        write_raw(tmp_path / "raw", values)
        options = ("--split_categories", "--dense_transform", transform, "--vocab_sizes", SIZES)
        assert run_split(tmp_path / "raw", tmp_path / part, *options) == 0
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path)
    assert (caught.value.expected, caught.value.found) == pair
    if pair[1] is None:
        open_dataset(tmp_path, declared=Declared(applied_transform="log(x+1)"))


def test_open_dataset_accepts_different_layouts_with_equal_transforms(tmp_path, arrays):
    for part, values, options in zip(("train", "test"), arrays, ((), ("--split_categories",))):
        write_raw(tmp_path / "raw", values)
        options = (*options, "--vocab_sizes", SIZES)
        assert run_split(tmp_path / "raw", tmp_path / part, *options) == 0
    train, test = open_dataset(tmp_path)
    assert (train.dense_transform, test.dense_transform) == ("log(x+1)", "none")


def test_test_split_without_metadata_takes_the_transform_of_train(tmp_path, arrays):
    split_dataset(tmp_path, arrays, "--split_categories")
    (tmp_path / "test" / "metadata.json").unlink()
    assert transforms_of(tmp_path) == {("none", "log(x+1)", "log(x+1)")}
    assert open_split(tmp_path / "test").effective_transform == "log(x+1)"


def test_test_split_of_another_layout_does_not_take_the_transform_of_train(tmp_path, arrays):
    split_dataset(tmp_path / "counts", arrays, "--dense_transform", "none")
    split_dataset(tmp_path / "stored", arrays, "--split_categories")
    (tmp_path / "counts" / "test").rename(tmp_path / "counts" / "away")
    (tmp_path / "stored" / "test").rename(tmp_path / "counts" / "test")
    (tmp_path / "counts" / "test" / "metadata.json").unlink()
    assert open_split(tmp_path / "counts" / "test").effective_transform is None
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path / "counts")
    assert (caught.value.expected, caught.value.found) == ("none", None)


@pytest.mark.parametrize(
    ("options", "effective"), [((), "log(x+1)"), (("--split_categories",), None)]
)
def test_open_dataset_reads_metadata_of_earlier_releases(tmp_path, arrays, options, effective):
    split_dataset(tmp_path, arrays, *options)
    for part in ("train", "test"):
        edit_metadata(tmp_path / part, applied_transform=None)
    assert {split.effective_transform for split in open_dataset(tmp_path)} == {effective}


@pytest.mark.parametrize("value", ["log(x+2)", 3, ["none"]])
def test_open_split_refuses_an_unknown_applied_transform(tmp_path, arrays, value):
    split_dataset(tmp_path, arrays)
    edit_metadata(tmp_path / "train", applied_transform=value)
    with pytest.raises(DatasetError) as caught:
        open_split(tmp_path / "train")
    assert (caught.value.field, caught.value.found) == ("applied_transform", value)


def test_open_split_refuses_a_second_logarithm(tmp_path, arrays):
    split_dataset(tmp_path, arrays, "--split_categories")
    edit_metadata(tmp_path / "train", dense_transform="log(x+3)")
    with pytest.raises(DatasetError) as caught:
        open_split(tmp_path / "train")
    assert (caught.value.expected, caught.value.found) == ("none", "log(x+3)")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--dense_transform", "none"), ("none", None, None)),
        (("--dense_transform", "none", "--applied_transform", "none"), ("none", "none", "none")),
        (("--applied_transform", "log(x+3)"), ("none", "log(x+3)", "log(x+3)")),
        (("--dense_transform", "log(x+1)"), ("log(x+1)", "none", "log(x+1)")),
    ],
)
def test_split_bin_records_declared_transforms(tmp_path, arrays, options, found, capsys):
    words = np.hstack([a.astype(np.int32) for a in (arrays[0].label[:, None], arrays[0].dense)])
    words[:, 1:] = arrays[0].dense.astype(np.float32).view(np.int32)
    np.hstack([words, arrays[0].ids]).astype("<i4").tofile(tmp_path / "raw")
    options = ("--vocab_sizes", SIZES, "--dense_type", "float32", *options)
    assert run_split(tmp_path / "raw", tmp_path / "out", *options) == 0
    split = open_split(tmp_path / "out")
    assert (split.dense_transform, split.applied_transform, split.effective_transform) == found
    assert ("--applied_transform" in capsys.readouterr().err) == (found[2] is None)


def test_transform_text_marks_stored_values(tmp_path, arrays):
    split_dataset(tmp_path, arrays, "--split_categories")
    assert transforms.transform_text(open_split(tmp_path / "train")) == "log(x+1) (stored)"
    layouts.per_table(tmp_path / "foreign", *arrays)
    foreign = open_split(tmp_path / "foreign" / "train")
    assert transforms.transform_text(foreign) == "unknown (stored)"
