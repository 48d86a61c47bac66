"""Conversions: lossless where the dtypes allow it, equal samples, and refusals."""

import dataclasses

import numpy as np
import pytest

from dataset import DatasetError, convert, open_dataset, open_split, validate
from dataset.chunks import ChunkReader, transformed_dense
from tests.support.dataset import layouts
from tests.support.dataset.hand_written import VOCAB_SIZES, random_arrays, write_days, write_raw

TRAIN, TEST = 997, 99
LARGE = 70_001  # one chunk and a part of another


@pytest.fixture(scope="module")
def arrays(shared_rng):
    """Small train and test samples."""
    rng = shared_rng("test_convert")
    return random_arrays(TRAIN, rng), random_arrays(TEST, rng)


@pytest.fixture(scope="module")
def large(shared_rng):
    """Train and test samples of more than one chunk each."""
    rng = shared_rng("test_convert", "large")
    return random_arrays(LARGE, rng), random_arrays(LARGE, rng)


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


def stored_bytes(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.bin"))}


@pytest.mark.parametrize(
    ("layout", "through"), [("raw", "raw"), ("raw", "three_file"), ("per_table", "three_file")]
)
def test_conversions_round_trip_byte_for_byte(tmp_path, large, layout, through):
    layouts.raw(tmp_path / "raw", *large)
    for before, after, to in (("raw", "a", layout), ("a", "b", through), ("b", "c", layout)):
        assert run(tmp_path / before, tmp_path / after, "--layout", to) == 0
    assert stored_bytes(tmp_path / "a") == stored_bytes(tmp_path / "c")
    if layout == "raw":
        assert stored_bytes(tmp_path / "raw") == stored_bytes(tmp_path / "c")
    assert open_dataset(tmp_path / "c")[0].vocab_sizes == VOCAB_SIZES


def samples_of(description):
    """Returns labels, ids and transformed dense values of a split of one chunk."""
    with ChunkReader(description) as reader:
        chunk = reader.read(0, description.samples)
        ids = np.hstack([part.astype(np.int64) for part in chunk.ids])
        return chunk.label.astype(int), ids, transformed_dense(chunk, description.dense_column)


@pytest.mark.parametrize("write", [case[0] for case in layouts.LAYOUTS])
def test_converted_samples_equal_the_source(tmp_path, arrays, write):
    if write is layouts.three_file_without_log:
        # Counts above float16's range need a logarithm.
        arrays = tuple(a._replace(dense=np.minimum(a.dense, 60000)) for a in arrays)
    write(tmp_path / "a", *arrays)
    for target, tolerance in (("three_file", 0), ("per_table", 2**-11)):  # half a unit of float16
        assert run(tmp_path / "a", tmp_path / target, "--layout", target) == 0
        for before, after in zip(open_dataset(tmp_path / "a"), open_dataset(tmp_path / target)):
            assert after.layout == target
            assert validate.validate(after, progress=False)[1] == []
            (label, ids, dense), expected = samples_of(after), samples_of(before)
            np.testing.assert_array_equal(label, expected[0])
            np.testing.assert_array_equal(ids, expected[1])
            np.testing.assert_allclose(dense, expected[2], tolerance, 1e-7 * bool(tolerance))


def test_mlperf_floats_become_raw_integers(tmp_path, arrays):
    layouts.mlperf(tmp_path / "a", *arrays)
    assert run(tmp_path / "a", tmp_path / "b", "--layout", "raw") == 0
    layouts.raw(tmp_path / "c", *arrays)
    assert stored_bytes(tmp_path / "b") == stored_bytes(tmp_path / "c")


def test_convert_writes_a_raw_file_into_the_current_folder(tmp_path, arrays, monkeypatch):
    layouts.raw(tmp_path / "a", *arrays)
    monkeypatch.chdir(tmp_path)
    assert run("a/test_data.bin", "copy.bin", "--layout", "raw") == 0
    assert (tmp_path / "copy.bin").read_bytes() == (tmp_path / "a/test_data.bin").read_bytes()


def test_convert_splits_flat_days(tmp_path, arrays):
    write_days(tmp_path / "a", arrays[1], [50, 49])
    sizes = ",".join(map(str, VOCAB_SIZES))
    assert (
        run(tmp_path / "a", tmp_path / "b", "--layout", "three_file", "--vocab_sizes", sizes) == 0
    )
    train, test = open_dataset(tmp_path / "b")
    assert (train.samples, test.samples) == (50, 25)


def test_convert_keeps_the_attainable_auc(tmp_path, arrays):
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
    message = capsys.readouterr().err
    assert str(tmp_path / "a" / "train") in message and message.count("\n") == 1


def test_convert_to_raw_needs_the_transform_of_raw_files(tmp_path, arrays, capsys):
    layouts.three_file(tmp_path / "a", *arrays)
    assert run(tmp_path / "a", tmp_path / "b", "--layout", "raw") == 2
    message = capsys.readouterr().err
    assert "log(x+3)" in message and "--dense_transform 'log(x+1)'" in message
    options = ["--layout", "raw", "--dense_transform", "log(x+1)"]
    assert run(tmp_path / "a", tmp_path / "b", *options) == 0
    layouts.raw(tmp_path / "c", *arrays)
    assert stored_bytes(tmp_path / "b") == stored_bytes(tmp_path / "c")


def test_convert_refuses_values_too_large_for_float16(tmp_path, arrays, capsys):
    train, test = (a._replace(dense=np.minimum(a.dense, 60000)) for a in arrays)
    train.dense[5, 2] = 70000
    layouts.three_file_without_log(tmp_path / "a", train, test)
    assert run(tmp_path / "a", tmp_path / "b", "--layout", "per_table") == 2
    message = capsys.readouterr().err
    assert "sample 5, dense feature 2" in message and "found 70000.0" in message


def test_convert_refuses_its_source_as_destination(tmp_path, arrays, capsys):
    layouts.raw(tmp_path / "a", *arrays)
    assert run(tmp_path / "a", tmp_path / "b", "--layout", "three_file") == 0
    before = stored_bytes(tmp_path / "b")
    options = ["--layout", "per_table", "--overwrite"]
    assert run(tmp_path / "b", tmp_path / "b", *options) == 2
    assert str(tmp_path / "b" / "train") in capsys.readouterr().err
    assert stored_bytes(tmp_path / "b") == before
    assert open_dataset(tmp_path / "b")[0].samples == TRAIN


def test_convert_to_raw_refuses_fractions(tmp_path, large, capsys):
    layouts.mlperf(tmp_path / "a", *large)
    path = tmp_path / "a" / "train" / "numerical.bin"
    dense = np.memmap(path, np.float32, "r+").reshape(-1, 13)
    dense[66000, 4] = 1.5
    dense.flush()
    assert run(tmp_path / "a", tmp_path / "b", "--layout", "raw") == 2
    message = capsys.readouterr().err
    assert f"{path}: sample 66000, dense feature 4" in message and "found 1.5" in message


def test_convert_split_refuses_read_only_layouts(tmp_path, arrays):
    write_raw(tmp_path / "raw.bin", arrays[1])
    source = open_split(tmp_path / "raw.bin", vocab_sizes=VOCAB_SIZES)
    with pytest.raises(DatasetError) as caught:
        convert.convert_split(source, str(tmp_path / "out"), "torchrec")
    assert caught.value.found == "torchrec"
    assert caught.value.expected == ("three_file", "per_table", "raw")


@pytest.mark.parametrize("transform", ["log(x+1)", "log(x+3)"])
def test_per_table_rounds_logarithms_to_the_nearest_half(tmp_path, arrays, transform):
    train = arrays[0]
    counts = np.concatenate([np.arange(-2, 200), [65534, 65535, 65536, 65537, 10**6, 2**31 - 4]])
    counts = counts[counts >= 0] if transform == "log(x+1)" else counts
    dense = np.resize(counts, (len(train.label), 13)).astype(np.int32)
    train = train._replace(dense=dense)
    layouts.raw(tmp_path / "a", train, train)
    options = ["--layout", "per_table", "--dense_transform", transform]
    assert run(tmp_path / "a", tmp_path / "b", *options) == 0
    stored = np.fromfile(tmp_path / "b" / "train" / "dense.bin", np.float16).reshape(-1, 13)
    # The sum is in float32, as in the reader; the logarithm is rounded to the nearest half.
    shifted = dense.astype(np.float32) + np.float32(transform[6])
    exact = np.log(shifted.astype(np.float64))
    unit = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
    assert (np.abs(stored - exact) <= 0.501 * unit).all()
