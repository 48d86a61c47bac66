"""feature_spec.yaml is the truth: what it describes is read, what is not understood is refused."""

import copy
import json

import numpy as np
import pytest
import yaml

from dataset import DatasetError, convert, open_dataset, open_split, open_train, reader, validate
from tests.support.dataset.hand_written import narrow, random_arrays

SIZES = [5, 200, 40000]
SAMPLES = 90


class Written:
    """A DeepLearningExamples dataset with names and places of its own."""

    def __init__(self, root, numerical=10, dtype="float32", places=("train", "test"), seed=0):
        self.root = root
        self.arrays = {}
        dense = [f"num_{i}" for i in range(numerical)]
        ids = [f"user id {t}" for t in range(len(SIZES))]
        features = {name: {"dtype": dtype} for name in dense} | {"clicked": {"dtype": "bool"}}
        for name, rows in zip(ids, SIZES):
            features[name] = {"dtype": np.dtype(narrow(rows)).name, "cardinality": rows}
        self.spec = {
            "feature_spec": features,
            "source_spec": {},
            # As NVIDIA's scripts do: one list, twice, which yaml.dump writes as an alias.
            "channel_spec": {"categorical": ids, "numerical": dense, "label": ["clicked"]},
            "metadata": {},
        }
        for index, (mapping, place) in enumerate(zip(("train", "test"), places)):
            drawn = random_arrays(SAMPLES, SIZES, seed=seed + index)
            values = np.log(drawn.dense[:, :1] + np.arange(1, numerical + 1)).astype(dtype)
            self.arrays[mapping] = drawn._replace(dense=values)
            (root / place).mkdir(parents=True, exist_ok=True)
            files = {f"{mapping}_x.bin": dense, f"{mapping}_y.bin": ["clicked"]}
            values.tofile(root / place / f"{mapping}_x.bin")
            drawn.label.astype(bool).tofile(root / place / f"{mapping}_y.bin")
            for table, (name, rows) in enumerate(zip(ids, SIZES)):
                file = f"{mapping}_{table}.bin"
                drawn.ids[:, table].astype(narrow(rows)).tofile(root / place / file)
                files[file] = [name]
            self.spec["source_spec"][mapping] = [
                {"type": "split_binary", "features": names, "files": [f"{place}/{file}"]}
                for file, names in files.items()
            ]
        self.write(self.spec)

    def write(self, spec):
        (self.root / "feature_spec.yaml").write_text(yaml.dump(spec))

    def change(self, *steps, value=None):
        """Writes a spec in which what is at `steps` is replaced, or without `value` removed."""
        spec = copy.deepcopy(self.spec)
        at = spec
        for step in steps[:-1]:
            at = at[step]
        if value is None:
            del at[steps[-1]]
        else:
            at[steps[-1]] = value
        self.write(spec)


def check_batches(description, arrays):
    (batch,) = reader.batches(description, SAMPLES)
    np.testing.assert_array_equal(batch["label"][:, 0], arrays.label)
    np.testing.assert_array_equal(batch["dense"], arrays.dense.astype(np.float32))
    np.testing.assert_array_equal(batch["categorical"], arrays.ids)


@pytest.mark.parametrize("places", [("train", "test"), ("data/a", "data/b"), (".", ".")])
@pytest.mark.parametrize("numerical", [1, 10, 13, 40])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_the_spec_describes_is_read(tmp_path, numerical, dtype, places):
    written = Written(tmp_path, numerical, dtype, places, seed=numerical)
    for mapping, description in zip(("train", "test"), open_dataset(tmp_path)):
        assert description.layout == "deep_learning_examples"
        assert description.dense_features == numerical
        assert description.dense_column.dtype == dtype
        assert description.vocab_sizes == SIZES
        check_batches(description, written.arrays[mapping])
        alone = open_split(tmp_path / mapping)
        assert alone.fingerprint == description.fingerprint
    assert open_train(tmp_path).dense_features == numerical


def test_tools_read_it(tmp_path, capsys):
    written = Written(tmp_path / "a", places=("x", "y"))
    assert validate.main([str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.count("dense ") == 2 * 10
    assert convert.main([str(tmp_path / "a"), str(tmp_path / "b"), "--layout=three_file"]) == 0
    train, test = open_dataset(tmp_path / "b")
    check_batches(train, written.arrays["train"])
    check_batches(test, written.arrays["test"])


def test_raw_files_hold_13_numerical_features(tmp_path, capsys):
    Written(tmp_path / "a")
    flags = ["--layout=raw", "--dense_transform=log(x+1)", "--applied_transform=none"]
    assert convert.main([str(tmp_path / "a"), str(tmp_path / "b"), *flags]) == 2
    assert "raw files hold 13 dense features, found 10" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_vocabulary_sizes_given_must_be_the_specs(tmp_path):
    Written(tmp_path)
    assert open_dataset(tmp_path, vocab_sizes=SIZES)[0].vocab_sizes == SIZES
    with pytest.raises(DatasetError, match="vocabulary sizes given and those of the feature spec"):
        open_dataset(tmp_path, vocab_sizes=[*SIZES[:-1], 5])


def test_types_must_be_the_bytes(tmp_path):
    written = Written(tmp_path)
    counts = np.ones((SAMPLES, 10), np.int32)
    counts.tofile(tmp_path / "train" / "train_x.bin")
    written.write(written.spec)
    with pytest.raises(DatasetError, match=r"feature_spec.yaml says float32, found int32"):
        open_dataset(tmp_path)


TRAIN = ("source_spec", "train")
REFUSED = {
    "csv": ((*TRAIN, 0, "type"), "csv", r"train\[0\]: type: expected split_binary, found 'csv'"),
    "two files": ((*TRAIN, 0, "files"), ["a", "b"], r"\[0\]: files: expected one file, found 2"),
    "no file": ((*TRAIN, 0, "files"), [], r"files: expected one file, found 0"),
    "parent": ((*TRAIN, 0, "files"), ["../x.bin"], r"files\[0\]: expected a path inside .*'../x.b"),
    "hidden parent": ((*TRAIN, 0, "files"), ["a/../../x"], r"files\[0\]: expected a path inside"),
    "absolute": ((*TRAIN, 0, "files"), ["/etc/passwd"], r"files\[0\]: expected a path inside"),
    "empty path": ((*TRAIN, 0, "files"), [""], r"files\[0\]: expected a path inside"),
    "NUL": ((*TRAIN, 0, "files"), ["a\0b"], "is no path"),
    "missing": ((*TRAIN, 0, "files"), ["train/none.bin"], "train/none.bin: missing file"),
    "unknown chunk key": ((*TRAIN, 0, "compression"), "gzip", "unknown field compression"),
    "unknown feature key": (("feature_spec", "num_1", "log"), True, "unknown field log"),
    "unknown channel": (("channel_spec", "weights"), ["num_1"], "unknown field weights"),
    "unknown key": (("weights",), 3, "unknown field weights"),
    "no channels": (("channel_spec",), None, "channel_spec: is missing"),
    "no mapping": (("source_spec", "test"), None, "source_spec: expected a mapping test, found tr"),
    "no dtype": (("feature_spec", "num_1", "dtype"), None, "feature_spec.num_1: dtype: is missing"),
    "mixed dtypes": (("feature_spec", "num_1", "dtype"), "float16", "expected one dtype in train/"),
    "int64": (("feature_spec", "user id 1", "dtype"), "int64", "unknown dtype 'int64'"),
    "no cardinality": (("feature_spec", "user id 1", "cardinality"), None, "found nothing"),
    "auto": (("feature_spec", "user id 1", "cardinality"), "auto", "found 'auto'"),
    "zero": (("feature_spec", "user id 1", "cardinality"), 0, "expected an integer from 1 to .*0"),
    "hotness": (("feature_spec", "user id 1", "hotness"), 3, "multi-hot features are not support"),
    "no numerical": (("channel_spec", "numerical"), [], "numerical: expected at least one feature"),
    "no categorical": (("channel_spec", "categorical"), [], "categorical: expected at least one"),
    "two labels": (("channel_spec", "label"), ["clicked", "num_0"], "label: expected one feature"),
    "unknown feature": (("channel_spec", "label"), ["bought"], "bought is not in feature_spec"),
    "twice": (("channel_spec", "numerical"), ["num_0", "num_0"], "num_0 occurs twice"),
    "part": (("channel_spec", "numerical"), ["num_0"], "expected it to hold num_0 of the dense"),
    "order": (("channel_spec", "numerical"), [f"num_{9 - i}" for i in range(10)], "in this order"),
    "in no file": ((*TRAIN, 1), None, "the feature clicked is in no file"),
    "names": ((*TRAIN, 0, "features"), "num_0", r"train\[0\]: features: expected list, found 'num"),
    "list": (("feature_spec",), [1], "feature_spec: expected object, found a list of 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused(tmp_path, case):
    steps, value, message = REFUSED[case]
    Written(tmp_path).change(*steps, value=value)
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)
    if case not in ("missing", "NUL", "int64"):
        assert str(caught.value).startswith(str(tmp_path / "feature_spec.yaml"))


@pytest.mark.parametrize("text", ["", "[", "a: &x [*x]", "\0", "--- 1", "2001-02-30"])
def test_a_file_that_is_no_spec(tmp_path, text):
    Written(tmp_path)
    (tmp_path / "feature_spec.yaml").write_text(text)
    with pytest.raises(DatasetError, match=r"feature_spec.yaml: "):
        open_dataset(tmp_path)


def test_own_metadata_goes_before_a_spec_beside_it(tmp_path):
    Written(tmp_path / "a")
    assert convert.main([str(tmp_path / "a"), str(tmp_path / "b"), "--layout=per_table"]) == 0
    (tmp_path / "b" / "feature_spec.yaml").write_bytes(
        (tmp_path / "a" / "feature_spec.yaml").read_bytes()
    )
    assert [one.layout for one in open_dataset(tmp_path / "b")] == ["per_table"] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"a": "5"}', "expected int, found '5'"), ('{"a": -1}', "expected int >= 0, found -1"),
     ("[5]", "expected object"), ("{}", "expected object of length >= 1"),
     ('{"a": 2147483647}', "expected int")],
)  # fmt: skip
def test_model_size_that_is_none(tmp_path, text, message):
    Written(tmp_path, 13, "float16")
    (tmp_path / "feature_spec.yaml").unlink()
    folder = tmp_path / "train"
    for file in list(folder.iterdir()):
        name = {"x": "numerical.bin", "y": "label.bin"}.get(file.stem[-1])
        file.rename(folder / (name or f"cat_{file.stem[-1]}.bin"))
    (tmp_path / "model_size.json").write_text(
        json.dumps({str(t): s - 1 for t, s in enumerate(SIZES)})
    )
    assert open_split(folder).vocab_sizes == SIZES
    (tmp_path / "model_size.json").write_text(text)
    with pytest.raises(DatasetError, match=f"model_size.json: .*{message}"):
        open_split(folder)
