"""Conversions: lossless where the dtype allows, equal batches, refusals where it does not."""

import dataclasses

import numpy as np
import pytest

from dataset import DatasetError, convert, open_dataset, open_split, reader, validate
from tests.support.dataset.hand_written import VOCAB_SIZES, random_arrays
from tests.unit.dataset import test_layouts as layouts

TRAIN, TEST = 70_001, 999  # more than one chunk, and a part of one


@pytest.fixture(scope="module")
def arrays():
    return random_arrays(TRAIN, seed=1), random_arrays(TEST, seed=2)


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


def stored_bytes(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*.bin"))}


@pytest.mark.parametrize("through", ["three_file", "raw"])
def test_counts_come_back_byte_for_byte(tmp_path, arrays, through):
    layouts.raw(tmp_path / "a", *arrays)
    assert run(tmp_path / "a", tmp_path / "b", "--layout", through) == 0
    assert run(tmp_path / "b", tmp_path / "c", "--layout", "raw") == 0
    assert stored_bytes(tmp_path / "a") == stored_bytes(tmp_path / "c")
    assert open_dataset(tmp_path / "c")[0].vocab_sizes == VOCAB_SIZES


def test_per_table_comes_back_byte_for_byte_through_three_file(tmp_path, arrays):
    layouts.raw(tmp_path / "a", *arrays)
    assert run(tmp_path / "a", tmp_path / "b", "--layout", "per_table") == 0
    assert run(tmp_path / "b", tmp_path / "c", "--layout", "three_file") == 0
    assert run(tmp_path / "c", tmp_path / "d", "--layout", "per_table") == 0
    for split in ("train", "test"):
        assert stored_bytes(tmp_path / "b" / split) == stored_bytes(tmp_path / "d" / split)


@pytest.mark.parametrize("target", ["three_file", "per_table"])
@pytest.mark.parametrize("write", [case[0] for case in layouts.LAYOUTS])
def test_batches_are_those_of_the_source(tmp_path, arrays, write, target):
    arrays = (arrays[0].slice(0, 997), arrays[1]) if write is layouts.torchrec else arrays
    if write is layouts.three_file_without_log:
        # Untransformed counts beyond float16's range cannot be narrowed.
        arrays = tuple(a._replace(dense=np.minimum(a.dense, 60000)) for a in arrays)
    write(tmp_path / "a", *arrays)
    assert run(tmp_path / "a", tmp_path / "b", "--layout", target) == 0
    for before, after in zip(open_dataset(tmp_path / "a"), open_dataset(tmp_path / "b")):
        assert after.layout == target
        assert validate.validate(after, progress=False)[1] == []
        dealt = zip(reader.batches(before, 997), reader.batches(after, 997))
        for one, other in dealt:
            np.testing.assert_array_equal(one["label"], other["label"])
            np.testing.assert_array_equal(one["categorical"], other["categorical"])
            tolerance = 2**-11 if target == "per_table" else 0  # half a unit of float16
            np.testing.assert_allclose(
                one["dense"], other["dense"], tolerance, 1e-7 * bool(tolerance)
            )


def test_mlperf_floats_become_raw_integers(tmp_path, arrays):
    layouts.mlperf(tmp_path / "a", *arrays)
    assert run(tmp_path / "a", tmp_path / "b", "--layout", "raw") == 0
    layouts.raw(tmp_path / "c", *arrays)
    assert stored_bytes(tmp_path / "b") == stored_bytes(tmp_path / "c")


def test_one_split_alone(tmp_path, arrays):
    layouts.raw(tmp_path / "a", *arrays)
    source = tmp_path / "a" / "test_data.bin"
    assert run(source, tmp_path / "b", "--layout", "per_table") == 0
    assert open_split(tmp_path / "b").samples == TEST


def test_a_raw_file_in_the_current_folder(tmp_path, arrays, monkeypatch):
    layouts.raw(tmp_path / "a", *arrays)
    monkeypatch.chdir(tmp_path)
    assert run("a/test_data.bin", "copy.bin", "--layout", "raw") == 0
    assert (tmp_path / "copy.bin").read_bytes() == (tmp_path / "a/test_data.bin").read_bytes()


def test_flat_days(tmp_path, arrays):
    layouts.write_days(tmp_path / "a", arrays[1], [500, 499])
    sizes = ",".join(map(str, VOCAB_SIZES))
    assert (
        run(tmp_path / "a", tmp_path / "b", "--layout", "three_file", "--vocab_sizes", sizes) == 0
    )
    train, test = open_dataset(tmp_path / "b")
    assert (train.samples, test.samples) == (500, 250)


def test_attainable_auc_survives(tmp_path, arrays):
    layouts.raw(tmp_path / "a", *arrays)
    source = open_split(tmp_path / "a" / "test_data.bin")
    source = dataclasses.replace(source, attainable_auc=0.75)
    train = open_split(tmp_path / "a" / "train_data.bin")
    for index, layout in enumerate(("three_file", "raw", "per_table")):
        folder = str(tmp_path / str(index))
        convert.convert_dataset([train, source], folder, layout, progress=False)
        train, source = open_dataset(folder)
        assert source.attainable_auc == 0.75
        assert train.attainable_auc is None


def test_transformed_values_cannot_become_raw(tmp_path, arrays, capsys):
    layouts.per_table(tmp_path / "a", *arrays)
    assert run(tmp_path / "a", tmp_path / "b", "--layout", "raw") == 2
    assert "holds transformed values: raw files hold counts" in capsys.readouterr().err


def test_another_transform_is_asked_for(tmp_path, arrays, capsys):
    layouts.three_file(tmp_path / "a", *arrays)
    assert run(tmp_path / "a", tmp_path / "b", "--layout", "raw") == 2
    assert "holds log(x+3) counts" in capsys.readouterr().err
    options = ["--layout", "raw", "--dense_transform", "log(x+1)"]
    assert run(tmp_path / "a", tmp_path / "b", *options) == 0
    layouts.raw(tmp_path / "c", *arrays)
    assert stored_bytes(tmp_path / "b") == stored_bytes(tmp_path / "c")


def test_stored_transform_cannot_be_exchanged(tmp_path, arrays, capsys):
    layouts.per_table(tmp_path / "a", *arrays)
    options = ["--layout", "three_file", "--dense_transform", "log(x+3)"]
    assert run(tmp_path / "a", tmp_path / "b", *options) == 2
    message = capsys.readouterr().err
    assert "whether the stored float16 values are counts or transformed" in message


def test_value_too_large_for_float16(tmp_path, arrays, capsys):
    train, test = (a._replace(dense=np.minimum(a.dense, 60000)) for a in arrays)
    train.dense[5, 2] = 70000
    layouts.three_file_without_log(tmp_path / "a", train, test)
    assert run(tmp_path / "a", tmp_path / "b", "--layout", "per_table") == 2
    message = capsys.readouterr().err
    assert "sample 5, dense feature 2: 70000.0 is too large for float16" in message


def test_not_onto_itself(tmp_path, arrays, capsys):
    layouts.raw(tmp_path / "a", *arrays)
    assert run(tmp_path / "a", tmp_path / "b", "--layout", "three_file") == 0
    before = stored_bytes(tmp_path / "b")
    options = ["--layout", "per_table", "--overwrite"]
    assert run(tmp_path / "b", tmp_path / "b", *options) == 2
    assert "cannot be rewritten from itself" in capsys.readouterr().err
    assert stored_bytes(tmp_path / "b") == before
    assert open_dataset(tmp_path / "b")[0].samples == TRAIN


def test_fractions_cannot_become_counts(tmp_path, arrays, capsys):
    layouts.mlperf(tmp_path / "a", *arrays)
    path = tmp_path / "a" / "train" / "numerical.bin"
    dense = np.memmap(path, np.float32, "r+").reshape(-1, 13)
    dense[66000, 4] = 1.5
    dense.flush()
    assert run(tmp_path / "a", tmp_path / "b", "--layout", "raw") == 2
    message = capsys.readouterr().err
    assert "numerical.bin: sample 66000, dense feature 4: 1.5 is not an integer" in message


def test_only_own_layouts_are_written(tmp_path, arrays):
    layouts.raw(tmp_path, *arrays)
    source = open_split(tmp_path / "test_data.bin")
    with pytest.raises(DatasetError, match="layout 'torchrec' is not written"):
        convert.convert_split(source, str(tmp_path / "out"), "torchrec")


@pytest.mark.parametrize("transform", ["log(x+1)", "log(x+3)"])
def test_logarithms_of_all_kinds_of_counts(tmp_path, arrays, transform):
    train = arrays[1]
    counts = np.concatenate([np.arange(-2, 200), [65534, 65535, 65536, 65537, 10**6, 2**31 - 4]])
    counts = counts[counts >= 0] if transform == "log(x+1)" else counts
    dense = np.resize(counts, (len(train.label), 13)).astype(np.int32)
    train = train._replace(dense=dense)
    layouts.raw(tmp_path / "a", train, train)
    options = ["--layout", "per_table", "--dense_transform", transform]
    assert run(tmp_path / "a", tmp_path / "b", *options) == 0
    stored = np.fromfile(tmp_path / "b" / "train" / "dense.bin", np.float16).reshape(-1, 13)
    # Sum and logarithm in float32, as the reader has them; then rounded to the nearest half.
    shifted = dense.astype(np.float32) + np.float32(transform[6])
    exact = np.log(shifted.astype(np.float64))
    unit = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
    assert (np.abs(stored - exact) <= 0.501 * unit).all()
