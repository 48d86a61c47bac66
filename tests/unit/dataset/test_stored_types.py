"""int32 read as float32, or the other way round, is an error in every layout and tool."""

import json

import numpy as np
import pytest

import split_bin
from dataset import DatasetError, convert, metadata, open_dataset, open_split, validate
from dataset.stored_types import Declared, looks_like
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
    """Counts as in Criteo's logs: mostly zero or small, seldom huge, some negative."""
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


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("samples", [1, 60, 4000])
@pytest.mark.parametrize("make", FLOATS)
def test_looks_like_finds_float32(make, samples, seed):
    random = np.random.default_rng(seed)
    values = FLOATS[make](random, samples).astype(np.float32)
    assert looks_like(values) == ("float32" if values.any() else None)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("samples", [1, 60, 4000])
@pytest.mark.parametrize("make", [counts, sparse_counts])
def test_looks_like_finds_int32(make, samples, seed):
    # In one sample a huge count may be all that a feature has.
    random = np.random.default_rng(seed)
    values = make(random, samples)
    found = looks_like(values)
    assert found == "int32" if samples > 1 else found in ("int32", "unclear")


def test_looks_like_is_undecided_about_zeros_and_mixtures():
    assert looks_like(np.zeros((9, 13), np.int32)) is None
    assert looks_like(np.full((9, 13), -0.0, np.float32)) is None
    times = random_arrays(100).dense
    times[:, 4] = np.arange(100) + 1_300_000_000
    assert looks_like(times) == "unclear"
    assert looks_like(np.full((9, 2), np.nan, np.float32)) == "unclear"
    assert looks_like(np.full((9, 2), 1_700_000_000, np.int32)) == "unclear"


def as_words(values):
    return np.asarray(values, np.float32).view(np.int32)


def float_arrays(seed=0, samples=SAMPLES):
    """Arrays whose dense values and labels are float32 by their bits."""
    arrays = random_arrays(samples, seed=seed)
    dense = np.random.default_rng(seed).uniform(0.1, 9, arrays.dense.shape)
    return arrays._replace(label=as_words(arrays.label), dense=as_words(dense))


def raw_dataset(root, train):
    write_raw(root / "train_data.bin", train)
    write_raw(root / "test_data.bin", train)
    (root / "vocab_sizes.json").write_text(json.dumps(VOCAB_SIZES))


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
def test_tools_refuse_raw_floats_and_name_the_flags(tmp_path, capsys, tool):
    raw_dataset(tmp_path / "raw", float_arrays())
    assert TOOLS[tool](tmp_path / "raw", tmp_path / "out", []) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "train_data.bin: labels: expected int32, found float32 (as float32 1, 1, 1)" in message
    assert "train_data.bin: dense values: expected int32, found float32 (as float32 " in message
    assert "give --label_type float32 --dense_type float32 --dense_transform none" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tool", ["convert", "split_bin"])
def test_tools_read_raw_floats_that_are_declared(tmp_path, capsys, tool):
    arrays = float_arrays()
    raw_dataset(tmp_path / "raw", arrays)
    types = ["--label_type=float32", "--dense_type=float32"]
    # Which transform is still to be applied to fractions is not guessed either.
    assert TOOLS[tool](tmp_path / "raw", tmp_path / "out", types) == 2
    assert "expected counts, of which log(x+1) is still to be taken" in capsys.readouterr().err
    assert TOOLS[tool](tmp_path / "raw", tmp_path / "out", [*types, "--dense_transform=none"]) == 0
    folder = tmp_path / "out" / "train"
    assert (folder / "dense.bin").read_bytes() == arrays.dense.tobytes()
    assert (folder / "label.bin").read_bytes() == arrays.label.tobytes()
    assert open_split(folder).dense_transform == "none"


def test_records_of_int32_labels_and_float32_values(tmp_path, capsys):
    # DeepLearningExamples' dataset type "binary".
    arrays = float_arrays()._replace(label=random_arrays(SAMPLES).label)
    raw_dataset(tmp_path / "raw", arrays)
    flags = ["--dense_type=float32", "--dense_transform=none"]
    assert TOOLS["convert"](tmp_path / "raw", tmp_path / "out", flags) == 0
    assert (tmp_path / "out" / "train" / "dense.bin").read_bytes() == arrays.dense.tobytes()
    assert (tmp_path / "out" / "train" / "label.bin").read_bytes() == arrays.label.tobytes()
    assert TOOLS["validate"](tmp_path / "out", None, []) == 0
    assert "float32  stored, transform not recorded: 0.1" in capsys.readouterr().out


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_refuse_a_type_that_the_bytes_contradict(tmp_path, capsys, tool):
    raw_dataset(tmp_path / "raw", random_arrays(SAMPLES))
    flags = ["--dense_type=float32", "--dense_transform=none"]
    assert TOOLS[tool](tmp_path / "raw", tmp_path / "out", flags) == 2
    assert "dense values: --dense_type says float32, found int32" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_opening_a_dataset_for_training_refuses_raw_floats(tmp_path):
    raw_dataset(tmp_path, float_arrays())
    with pytest.raises(DatasetError, match=r"train_data.bin: dense values: expected int32, found"):
        open_dataset(tmp_path)


def test_floats_in_the_middle_alone_are_found(tmp_path):
    arrays = random_arrays(20_000)
    arrays.dense[:] = 0
    arrays.dense[10_000, 3] = as_words([2.5])[0]
    raw_dataset(tmp_path, arrays)
    with pytest.raises(DatasetError, match=r"found float32 \(as float32 2.5\)"):
        open_split(tmp_path / "train_data.bin")


def test_a_feature_of_times_needs_a_declaration(tmp_path):
    arrays = random_arrays(SAMPLES)
    arrays.dense[:, 2] = np.arange(SAMPLES) + 1_300_000_000
    raw_dataset(tmp_path, arrays)
    path = tmp_path / "train_data.bin"
    with pytest.raises(
        DatasetError, match=r"may be int32 or float32 .*--dense_type int32 or --dense_type float32"
    ):
        open_split(path)
    assert open_split(path, declared=Declared(dense="int32")).samples == SAMPLES


def test_zeros_are_read_as_ever(tmp_path):
    arrays = random_arrays(SAMPLES)
    arrays.dense[:] = 0
    raw_dataset(tmp_path, arrays)
    assert open_split(tmp_path / "train_data.bin").dense_column.dtype == "int32"


@pytest.mark.parametrize("key", ["label", "dense"])
def test_seed_metadata_that_the_bytes_contradict(tmp_path, key):
    arrays = float_arrays()
    right = {"label_raw_type": "float32", "dense_raw_type": "float32", "dense_log": False}
    write_three_file(tmp_path / "train", arrays, seed_metadata() | right)
    assert open_split(tmp_path / "train").dense_column.dtype == "float32"
    wrong = seed_metadata() | right | {f"{key}_raw_type": "int32"}
    write_three_file(tmp_path / "train", arrays, wrong)
    with pytest.raises(
        DatasetError,
        match=rf"{key}.bin: .*metadata.json: {key}_raw_type says int32, found float32 .*correct",
    ):
        open_split(tmp_path / "train")
    # The same test split without metadata, which takes its train split's.
    write_three_file(tmp_path / "test", arrays)
    with pytest.raises(DatasetError, match=rf"train/metadata.json: {key}_raw_type says int32"):
        open_split(tmp_path / "test")


def test_bare_three_files_of_floats(tmp_path):
    write_three_file(tmp_path / "train", float_arrays())
    with pytest.raises(DatasetError, match="dense values: expected int32, found float32"):
        open_split(tmp_path / "train", vocab_sizes=VOCAB_SIZES)
    declared = Declared("float32", "float32", "none")
    found = open_split(tmp_path / "train", vocab_sizes=VOCAB_SIZES, declared=declared)
    assert (found.label_column.dtype, found.dense_column.dtype) == ("float32", "float32")


def test_own_metadata_that_the_bytes_contradict(tmp_path):
    # What earlier releases wrote when --dense_type was forgotten.
    write_raw(tmp_path / "raw.bin", random_arrays(SAMPLES))
    source = open_split(tmp_path / "raw.bin", vocab_sizes=VOCAB_SIZES)
    folder = tmp_path / "train"
    convert.convert_split(source, str(folder), "three_file", progress=False)
    float_arrays().dense.tofile(folder / "dense.bin")
    content = json.loads((folder / "metadata.json").read_text())
    content["fingerprint"] = metadata.fingerprint(content)
    (folder / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(
        DatasetError, match=r"dense.bin: .*metadata.json says int32, found float32 .*write the spl"
    ):
        open_split(folder)


def test_mlperf_counts_as_int32(tmp_path, capsys):
    arrays = random_arrays(SAMPLES)
    for name in ("train", "test"):
        write_mlperf(tmp_path / "a" / name, arrays)
        arrays.dense.tofile(tmp_path / "a" / name / "numerical.bin")
    (tmp_path / "a" / "vocab_sizes.json").write_text(json.dumps(VOCAB_SIZES))
    options = [str(tmp_path / "a"), str(tmp_path / "b"), "--layout=raw"]
    assert convert.main(options) == 2
    assert "numerical.bin: dense values: expected float32, found int32" in capsys.readouterr().err
    assert convert.main([*options, "--dense_type=int32"]) == 0
    raw_dataset(tmp_path / "c", arrays)
    found = (tmp_path / "b" / "train_data.bin").read_bytes()
    assert found == (tmp_path / "c" / "train_data.bin").read_bytes()


def test_mlperf_values_that_are_no_counts(tmp_path):
    write_mlperf(tmp_path / "train", random_arrays(SAMPLES))
    float_arrays().dense.tofile(tmp_path / "train" / "numerical.bin")
    with pytest.raises(DatasetError, match=r"expected counts, of which log\(x\+1\) is still to be"):
        open_split(tmp_path / "train", vocab_sizes=VOCAB_SIZES)
    declared = Declared(dense_transform="none")
    found = open_split(tmp_path / "train", vocab_sizes=VOCAB_SIZES, declared=declared)
    assert found.dense_transform == "none"


def test_days_whose_header_the_bytes_contradict(tmp_path):
    arrays = random_arrays(SAMPLES)
    write_days(tmp_path, arrays, [SAMPLES])
    np.save(tmp_path / "day_0_dense.npy", arrays.dense.view(np.float32))
    with pytest.raises(
        DatasetError, match=r"header of .*day_0_dense.npy says float32, found int32"
    ):
        open_split(tmp_path, vocab_sizes=VOCAB_SIZES)


def test_a_layout_of_one_type_takes_no_other(tmp_path):
    write_days(tmp_path, random_arrays(SAMPLES), [SAMPLES])
    with pytest.raises(DatasetError, match=r"--dense_type int32: .*are stored as float32"):
        open_split(tmp_path, vocab_sizes=VOCAB_SIZES, declared=Declared(dense="int32"))
