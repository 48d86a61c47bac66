"""int32 read as float32, or the reverse, is an error in every layout and tool."""

import numpy as np
import pytest

import split_bin
from dataset import DatasetError, convert, open_split, validate
from dataset.stored_types import Declared, infer_dtype
from tests.support.dataset import layouts
from tests.support.dataset.hand_written import (
    VOCAB_SIZES,
    random_arrays,
    seed_metadata,
    write_days,
    write_mlperf,
    write_raw,
    write_three_file,
)

SAMPLES = 500
SIZES = ",".join(map(str, VOCAB_SIZES))


def counts(random, samples):
    """Returns counts as in Criteo's logs: mostly zero or small, some huge, some negative."""
    values = np.exp(random.normal(1, 3, (samples, 13))).astype(np.int64)
    values[random.random(values.shape) < 0.4] = 0
    values[random.random(values.shape) < 0.01] = random.integers(10**8, 2**31)
    values[random.random(values.shape) < 0.02] = -1 - random.integers(2)
    return np.minimum(values, 2**31 - 1).astype(np.int32)


def sparse_counts(random, samples):
    values = np.zeros((samples, 13), np.int32)
    values[random.integers(samples), random.integers(13)] = random.integers(1, 10**6)
    return values


FLOATS = {
    "uniform": lambda random, n: random.uniform(0, 1, (n, 13)),
    "normal": lambda random, n: random.normal(0, 1, (n, 13)),
    "logs": lambda random, n: np.log(counts(random, n).clip(0) + 1.0),
    "whole": lambda random, n: counts(random, n),
    "constant": lambda random, n: np.tile(np.arange(13.0), (n, 1)),
    "with NaN": lambda random, n: np.where(random.random((n, 13)) < 0.5, np.nan, -1.5),
    "one value": lambda random, n: np.where(np.arange(13 * n).reshape(n, 13) == 77, 0.5, 0),
}


@pytest.mark.parametrize("samples", [2, 60, 4000])
@pytest.mark.parametrize("make", FLOATS)
def test_infer_dtype_finds_float32(make, samples, rng):
    values = FLOATS[make](rng, samples).astype(np.float32)
    assert infer_dtype(values) == ("float32" if values.any() else None)


# A single sample may hold only huge counts, which are unclear.
@pytest.mark.parametrize(
    ("make", "samples"), [(counts, 60), (counts, 4000), (sparse_counts, 1), (sparse_counts, 4000)]
)
def test_infer_dtype_finds_int32(make, samples, rng):
    assert infer_dtype(make(rng, samples)) == "int32"


def test_infer_dtype_is_undecided_about_zeros_and_mixtures(rng):
    assert infer_dtype(np.zeros((9, 13), np.int32)) is None
    assert infer_dtype(np.full((9, 13), -0.0, np.float32)) is None
    times = random_arrays(100, rng).dense
    times[:, 4] = np.arange(100) + 1_300_000_000
    assert infer_dtype(times) == "unclear"
    assert infer_dtype(np.full((9, 2), np.nan, np.float32)) == "unclear"
    assert infer_dtype(np.full((9, 2), 1_700_000_000, np.int32)) == "unclear"


def as_words(values):
    return np.asarray(values, np.float32).view(np.int32)


def float_arrays(rng, samples=SAMPLES):
    """Returns arrays whose words of labels and dense values are float32."""
    arrays = random_arrays(samples, rng)
    dense = rng.uniform(0.1, 9, arrays.dense.shape)
    return arrays._replace(label=as_words(arrays.label), dense=as_words(dense))


def raw_dataset(root, train):
    layouts.raw(root, train, train)


TOOLS = {
    "validate": lambda root, out, flags: validate.main([str(root), *flags]),
    "convert": lambda root, out, flags: convert.main(
        [str(root), str(out), "--layout=three_file", *flags]
    ),
    "split_bin": lambda root, out, flags: split_bin.main(
        [str(root / "train_data.bin"), str(out / "train"), *flags]
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_refuse_raw_floats_and_name_the_flags(tmp_path, rng, capsys, tool):
    raw_dataset(tmp_path / "raw", float_arrays(rng))
    assert TOOLS[tool](tmp_path / "raw", tmp_path / "out", []) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.count("train_data.bin: ") == message.count("expected int32") == 2
    assert "--label_type float32 --dense_type float32 --dense_transform none" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tool", ["convert", "split_bin"])
def test_tools_read_declared_raw_floats(tmp_path, rng, capsys, tool):
    arrays = float_arrays(rng)
    raw_dataset(tmp_path / "raw", arrays)
    types = ["--label_type=float32", "--dense_type=float32"]
    # Fractions also need a declared transform.
    assert TOOLS[tool](tmp_path / "raw", tmp_path / "out", types) == 2
    assert "--dense_transform none" in capsys.readouterr().err
    assert TOOLS[tool](tmp_path / "raw", tmp_path / "out", [*types, "--dense_transform=none"]) == 0
    folder = tmp_path / "out" / "train"
    assert (folder / "dense.bin").read_bytes() == arrays.dense.tobytes()
    assert (folder / "label.bin").read_bytes() == arrays.label.tobytes()
    assert open_split(folder).dense_transform == "none"


def fails(function, *arguments, **options):
    """Calls a function that must raise a `DatasetError`; returns that."""
    with pytest.raises(DatasetError) as caught:
        function(*arguments, **options)
    return caught.value


def assert_types(error, path, expected, found):
    assert (error.path, error.expected, error.found) == (str(path), expected, found)


def test_open_split_finds_floats_in_the_middle(tmp_path, rng):
    arrays = random_arrays(20_000, rng)
    arrays.dense[:] = 0
    arrays.dense[10_000, 3] = as_words([2.5])[0]
    raw_dataset(tmp_path, arrays)
    error = fails(open_split, tmp_path / "train_data.bin")
    assert error.found == "float32" and "2.5" in str(error)


def test_open_split_needs_a_declared_type_for_unclear_words(tmp_path, rng):
    arrays = random_arrays(SAMPLES, rng)
    arrays.dense[:, 2] = np.arange(SAMPLES) + 1_300_000_000  # times in seconds
    raw_dataset(tmp_path, arrays)
    path = tmp_path / "train_data.bin"
    error = fails(open_split, path)
    assert (error.flag, error.found) == ("dense_type", "unclear")
    assert open_split(path, declared=Declared(dense="int32")).samples == SAMPLES


def test_open_split_reads_zeros_as_the_usual_type(tmp_path, rng):
    arrays = random_arrays(SAMPLES, rng)
    arrays.dense[:] = 0
    raw_dataset(tmp_path, arrays)
    assert open_split(tmp_path / "train_data.bin").dense_column.dtype == "int32"


@pytest.mark.parametrize("key", ["label", "dense"])
def test_open_split_refuses_seed_metadata_that_contradicts_the_bytes(tmp_path, rng, key):
    arrays = float_arrays(rng)
    right = {"label_raw_type": "float32", "dense_raw_type": "float32", "dense_log": False}
    write_three_file(tmp_path / "train", arrays, seed_metadata() | right)
    assert open_split(tmp_path / "train").dense_column.dtype == "float32"
    wrong = seed_metadata() | right | {f"{key}_raw_type": "int32"}
    write_three_file(tmp_path / "train", arrays, wrong)
    # A test split without metadata takes the types of its train split.
    write_three_file(tmp_path / "test", arrays)
    for part in ("train", "test"):
        error = fails(open_split, tmp_path / part)
        assert_types(error, tmp_path / part / f"{key}.bin", "int32", "float32")
        assert f"{tmp_path}/train/metadata.json: {key}_raw_type" in str(error)


def test_open_split_refuses_undeclared_floats_in_three_files(tmp_path, rng):
    write_three_file(tmp_path / "train", float_arrays(rng))
    error = fails(open_split, tmp_path / "train", vocab_sizes=VOCAB_SIZES)
    assert_types(error, tmp_path / "train" / "label.bin", "int32", "float32")
    declared = Declared("float32", "float32", "none")
    found = open_split(tmp_path / "train", vocab_sizes=VOCAB_SIZES, declared=declared)
    assert (found.label_column.dtype, found.dense_column.dtype) == ("float32", "float32")


def test_open_split_refuses_own_metadata_that_contradicts_the_bytes(tmp_path, rng):
    # Earlier releases wrote this if --dense_type was forgotten.
    write_raw(tmp_path / "raw.bin", random_arrays(SAMPLES, rng))
    source = open_split(tmp_path / "raw.bin", vocab_sizes=VOCAB_SIZES)
    folder = tmp_path / "train"
    convert.convert_split(source, str(folder), "three_file", progress=False)
    float_arrays(rng).dense.tofile(folder / "dense.bin")
    error = fails(open_split, folder)
    assert_types(error, folder / "dense.bin", "int32", "float32")
    assert str(folder / "metadata.json") in str(error)


def test_mlperf_files_may_hold_int32_counts(tmp_path, rng, capsys):
    arrays = random_arrays(SAMPLES, rng)
    layouts.mlperf(tmp_path / "a", arrays, arrays)
    for name in ("train", "test"):
        arrays.dense.tofile(tmp_path / "a" / name / "numerical.bin")
    options = [str(tmp_path / "a"), str(tmp_path / "b"), "--layout=raw"]
    assert convert.main(options) == 2
    assert "--dense_type int32" in capsys.readouterr().err
    assert convert.main([*options, "--dense_type=int32"]) == 0
    raw_dataset(tmp_path / "c", arrays)
    found = (tmp_path / "b" / "train_data.bin").read_bytes()
    assert found == (tmp_path / "c" / "train_data.bin").read_bytes()


def test_open_split_refuses_logarithms_of_fractions(tmp_path, rng):
    write_mlperf(tmp_path / "train", random_arrays(SAMPLES, rng))
    float_arrays(rng).dense.tofile(tmp_path / "train" / "numerical.bin")
    error = fails(open_split, tmp_path / "train", vocab_sizes=VOCAB_SIZES)
    assert (error.flag, error.found) == ("dense_transform", "log(x+1)")
    declared = Declared(dense_transform="none")
    found = open_split(tmp_path / "train", vocab_sizes=VOCAB_SIZES, declared=declared)
    assert found.dense_transform == "none"


def test_open_split_refuses_npy_headers_that_contradict_the_bytes(tmp_path, rng):
    arrays = random_arrays(SAMPLES, rng)
    write_days(tmp_path, arrays, [SAMPLES])
    np.save(tmp_path / "day_0_dense.npy", arrays.dense.view(np.float32))
    error = fails(open_split, tmp_path, vocab_sizes=VOCAB_SIZES)
    assert_types(error, tmp_path / "day_0_dense.npy", "float32", "int32")


def test_open_split_refuses_a_declared_type_that_contradicts_the_bytes(tmp_path, rng):
    raw_dataset(tmp_path, random_arrays(SAMPLES, rng))
    path, declared = tmp_path / "train_data.bin", Declared(None, "float32", "none")
    error = fails(open_split, path, declared=declared)
    assert_types(error, path, "float32", "int32")
    assert error.flag == "dense_type"


def test_open_split_refuses_a_declared_type_of_a_layout_with_another(tmp_path, rng):
    write_days(tmp_path, random_arrays(SAMPLES, rng), [SAMPLES])
    declared = Declared(dense="int32")
    error = fails(open_split, tmp_path, vocab_sizes=VOCAB_SIZES, declared=declared)
    assert (error.flag, error.expected, error.found) == ("dense_type", "float32", "int32")
