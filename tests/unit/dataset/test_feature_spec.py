"""feature_spec.yaml: supported contents are read, all others are refused."""

import numpy as np
import pytest

from dataset import DatasetError, convert, open_dataset, open_split, open_train, reader, validate
from tests.support.dataset import layouts
from tests.support.dataset.feature_specs import SAMPLES, SIZES, SpecDataset


def check_batches(description, arrays):
    (batch,) = reader.batches(description, SAMPLES)
    np.testing.assert_array_equal(batch["label"][:, 0], arrays.label)
    np.testing.assert_array_equal(batch["dense"], arrays.dense.astype(np.float32))
    np.testing.assert_array_equal(batch["categorical"], arrays.ids)


@pytest.mark.parametrize(
    ("numerical", "dtype", "places"),
    [
        (1, "float16", ("train", "test")),
        (40, "float32", ("data/a", "data/b")),
        (13, "float16", (".", ".")),
    ],
)
def test_open_dataset_reads_the_described_files(tmp_path, rng, numerical, dtype, places):
    written = SpecDataset(tmp_path, rng, numerical, dtype, places)
    for mapping, description in zip(("train", "test"), open_dataset(tmp_path)):
        assert description.layout == "deep_learning_examples"
        assert description.dense_features == numerical
        assert description.dense_column.dtype == dtype
        assert description.vocab_sizes == SIZES
        check_batches(description, written.arrays[mapping])
        assert open_split(tmp_path / mapping).fingerprint == description.fingerprint
    assert open_train(tmp_path).dense_features == numerical


def test_tools_read_a_spec_dataset(tmp_path, rng, capsys):
    written = SpecDataset(tmp_path / "a", rng, places=("x", "y"))
    assert validate.main([str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.count("dense ") == 2 * 10
    assert convert.main([str(tmp_path / "a"), str(tmp_path / "b"), "--layout=three_file"]) == 0
    train, _ = open_dataset(tmp_path / "b")
    check_batches(train, written.arrays["train"])


def test_convert_to_raw_needs_13_numerical_features(tmp_path, rng, capsys):
    SpecDataset(tmp_path / "a", rng)
    flags = ["--layout=raw", "--dense_transform=log(x+1)", "--applied_transform=none"]
    assert convert.main([str(tmp_path / "a"), str(tmp_path / "b"), *flags]) == 2
    assert "expected 13 dense features, found 10" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_given_vocabulary_sizes_must_equal_the_specs(tmp_path, rng):
    SpecDataset(tmp_path, rng)
    assert open_dataset(tmp_path, vocab_sizes=SIZES)[0].vocab_sizes == SIZES
    other = [*SIZES[:-1], 5]
    with pytest.raises(DatasetError, match="table 2") as caught:
        open_dataset(tmp_path, vocab_sizes=other)
    assert (caught.value.flag, caught.value.found) == ("vocab_sizes", other)


def test_types_must_match_the_bytes(tmp_path, rng):
    SpecDataset(tmp_path, rng)
    np.ones((SAMPLES, 10), np.int32).tofile(tmp_path / "train" / "train_x.bin")
    with pytest.raises(DatasetError, match=r"feature_spec\.yaml") as caught:
        open_dataset(tmp_path)
    assert (caught.value.expected, caught.value.found) == ("float32", "int32")


TRAIN = ("source_spec", "train")
CHUNK = "source_spec.train[0]"
# {case: (path of the value, its replacement, expected field, expected `found`)}.
REFUSED = {
    "csv": ((*TRAIN, 0, "type"), "csv", f"{CHUNK}.type", "csv"),
    "two files": ((*TRAIN, 0, "files"), ["a", "b"], f"{CHUNK}.files", 2),
    **{f"path {file}": ((*TRAIN, 0, "files"), [file], f"{CHUNK}.files[0]", file)
       for file in ("../x.bin", "a/../../x", "/etc/passwd", "")},
    "unknown chunk key": ((*TRAIN, 0, "compression"), "gzip", f"{CHUNK}.compression", None),
    "unknown key": (("weights",), 3, "weights", None),
    "no mapping": (("source_spec", "test"), None, "source_spec", ["train"]),
    "no dtype": (("feature_spec", "num_1", "dtype"), None, "feature_spec.num_1.dtype", None),
    "mixed dtypes": (
        ("feature_spec", "num_1", "dtype"), "float16", "feature_spec", ["float16", "float32"]
    ),
    **{f"cardinality {size}": (("feature_spec", "user id 1", "cardinality"), size,
                               "feature_spec.user id 1.cardinality", size)
       for size in (None, "auto", 0)},
    "hotness": (("feature_spec", "user id 1", "hotness"), 0, "feature_spec.user id 1.hotness", 0),
    "no numerical": (("channel_spec", "numerical"), [], "channel_spec.numerical", 0),
    "no categorical": (("channel_spec", "categorical"), [], "channel_spec.categorical", 0),
    "two labels": (("channel_spec", "label"), ["clicked", "num_0"], "channel_spec.label", 2),
    "unknown feature": (("channel_spec", "label"), ["bought"], "channel_spec.label", "bought"),
    "twice": (("channel_spec", "numerical"), ["num_0"] * 2, "channel_spec.numerical", "num_0"),
    **{f"names {names}": (("channel_spec", "numerical"), names, "source_spec.train",
                          [f"num_{i}" for i in range(10)])
       for names in (["num_0"], [f"num_{9 - i}" for i in range(10)])},
    "in no file": ((*TRAIN, 1), None, "source_spec.train", None),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_open_dataset_refuses_a_wrong_spec(tmp_path, rng, case):
    steps, value, field, found = REFUSED[case]
    SpecDataset(tmp_path, rng).change(*steps, value=value)
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)
    assert caught.value.path == str(tmp_path / "feature_spec.yaml")
    assert (caught.value.field, caught.value.found) == (field, found)


def test_open_dataset_refuses_wrong_files_and_dtypes_of_a_spec(tmp_path, rng):
    written = SpecDataset(tmp_path, rng)
    written.change(*TRAIN, 0, "files", value=["train/none.bin"])
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path)
    assert caught.value.path == str(tmp_path / "train" / "none.bin")
    written.change(*TRAIN, 0, "files", value=["a\0b"])
    with pytest.raises(DatasetError):
        open_dataset(tmp_path)
    written.change("feature_spec", "user id 1", "dtype", value="int64")
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path)
    assert caught.value.found == "int64"


def test_open_dataset_refuses_a_file_that_is_not_a_spec(tmp_path):
    (tmp_path / "feature_spec.yaml").write_text("--- 1")
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path)
    assert caught.value.path == str(tmp_path / "feature_spec.yaml")


def test_own_metadata_takes_precedence_over_a_spec(tmp_path, rng):
    SpecDataset(tmp_path / "a", rng)
    assert convert.main([str(tmp_path / "a"), str(tmp_path / "b"), "--layout=per_table"]) == 0
    (tmp_path / "b" / "feature_spec.yaml").write_bytes(
        (tmp_path / "a" / "feature_spec.yaml").read_bytes()
    )
    assert [one.layout for one in open_dataset(tmp_path / "b")] == ["per_table"] * 2


@pytest.mark.parametrize(
    ("text", "field", "found"),
    [('{"a": "5"}', "a", "5"), ('{"a": -1}', "a", -1), ("[5]", None, [5]), ("{}", None, {}),
     ('{"a": 2147483647}', "a", 2**31 - 1)],
)  # fmt: skip
def test_open_split_checks_model_size(tmp_path, arrays, text, field, found):
    layouts.deep_learning_examples(tmp_path, arrays, arrays)
    path = tmp_path / "model_size.json"
    path.write_text(text)
    with pytest.raises(DatasetError) as caught:
        open_split(tmp_path / "train")
    assert (caught.value.path, caught.value.field, caught.value.found) == (str(path), field, found)
