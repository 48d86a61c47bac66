"""Every layout is recognised, described rightly, and gives the same batches."""

import json

import numpy as np
import pytest
import yaml

from dataset import DatasetError, open_dataset, open_split, reader
from tests.support.dataset.hand_written import (
    VOCAB_SIZES,
    narrow,
    random_arrays,
    seed_metadata,
    write_days,
    write_mlperf,
    write_narrow,
    write_raw,
    write_three_file,
)

BATCH = 120


def write_sizes(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab_sizes.json").write_text(json.dumps(VOCAB_SIZES))


def raw(root, train, test):
    write_raw(root / "train_data.bin", train)
    write_raw(root / "test_data.bin", test)
    write_sizes(root)


def three_file(root, train, test):
    write_three_file(root / "train", train, seed_metadata())
    write_three_file(root / "test", test)


def three_file_without_log(root, train, test):
    write_three_file(root / "train", train, seed_metadata(dense_log=False))
    write_three_file(root / "test", test, seed_metadata(dense_log=False))


def three_file_bare(root, train, test):
    write_three_file(root / "train", train)
    write_three_file(root / "test", test)
    write_sizes(root)


def per_table(root, train, test):
    for name, part in (("train", train), ("test", test)):
        write_narrow(root / name, part, "dense.bin", "category_{}.bin")
    write_sizes(root)


def deep_learning_examples(root, train, test):
    for name, part in (("train", train), ("test", test)):
        write_narrow(root / name, part, "numerical.bin", "cat_{}.bin", shift=3)
    (root / "model_size.json").write_text(
        json.dumps({f"_c{14 + t}": rows - 1 for t, rows in enumerate(VOCAB_SIZES)})
    )


def feature_spec(root, train, test):
    for name, part in (("train", train), ("test", test)):
        write_narrow(root / name, part, "numerical.bin", "cat_{}.bin", shift=3)
    ids = [f"cat_{t}.bin" for t in range(len(VOCAB_SIZES))]
    dense = [f"num_{i}" for i in range(13)]
    features = {
        name: {"dtype": np.dtype(narrow(rows)).name, "cardinality": rows}
        for name, rows in zip(ids, VOCAB_SIZES)
    }
    features.update({name: {"dtype": "float16"} for name in dense}, label={"dtype": "bool"})

    def sources(split):
        chunks = [{"type": "split_binary", "features": [n], "files": [f"{split}/{n}"]} for n in ids]
        files = {"numerical.bin": dense, "label.bin": ["label"]}
        chunks += [
            {"type": "split_binary", "features": f, "files": [f"{split}/{n}"]}
            for n, f in files.items()
        ]
        return chunks

    spec = {
        "feature_spec": features,
        "source_spec": {split: sources(split) for split in ("train", "test")},
        "channel_spec": {"categorical": ids, "numerical": dense, "label": ["label"]},
        "metadata": {},
    }
    (root / "feature_spec.yaml").write_text(yaml.safe_dump(spec))


def mlperf(root, train, test):
    write_mlperf(root / "train", train)
    write_mlperf(root / "test", test)
    write_sizes(root)


def torchrec(root, train, test):
    write_days(root / "train", train, [400, 1, 300, 296])
    write_days(root / "test", test, [len(test.label)])
    write_sizes(root)


#: writer, layout, what the model is fed for a stored count, and to what accuracy.
LAYOUTS = [
    (raw, "raw", lambda x: np.log(x + 1), 3e-7),
    (three_file, "three_file", lambda x: np.log(x + 3), 3e-7),
    (three_file_without_log, "three_file", lambda x: x, 0),
    (three_file_bare, "three_file", lambda x: np.log(x + 3), 3e-7),
    (per_table, "per_table", lambda x: np.log(x + 1).astype(np.float16), 0),
    (deep_learning_examples, "deep_learning_examples", lambda x: np.log(x + 3), 1e-3),
    (feature_spec, "deep_learning_examples", lambda x: np.log(x + 3), 1e-3),
    (mlperf, "mlperf_v0.7", lambda x: np.log(x + 1), 3e-7),
    (torchrec, "torchrec", lambda x: np.log(x + 1), 3e-7),
]


@pytest.mark.parametrize("given", ["auto", "named"])
@pytest.mark.parametrize(("write", "layout", "dense", "tolerance"), LAYOUTS)
def test_layout_gives_the_samples(tmp_path, write, layout, dense, tolerance, given):
    train, test = random_arrays(997, seed=1), random_arrays(250, seed=2)
    write(tmp_path, train, test)
    opened = open_dataset(tmp_path, layout="auto" if given == "auto" else layout)
    for description, arrays in zip(opened, (train, test)):
        assert description.layout == layout
        assert description.samples == len(arrays.label)
        assert description.vocab_sizes == VOCAB_SIZES
        assert description.dense_features == 13
        seen = 0
        for batch in reader.batches(description, BATCH, drop_remainder=False):
            valid = int(batch["valid"])
            part = arrays.slice(seen, valid)
            np.testing.assert_array_equal(batch["label"][:valid, 0], part.label)
            np.testing.assert_array_equal(batch["categorical"][:valid], part.ids)
            np.testing.assert_allclose(
                batch["dense"][:valid], dense(part.dense.astype(np.float64)), tolerance, tolerance
            )
            seen += valid
        assert seen == len(arrays.label)


def test_flat_days_use_half_of_the_last_as_test(tmp_path):
    arrays = random_arrays(500)
    write_days(tmp_path, arrays, [200, 199, 101])
    train, test = open_dataset(tmp_path, vocab_sizes=VOCAB_SIZES)
    assert (train.samples, test.samples) == (399, 51)
    (batch,) = reader.batches(test, 51)
    np.testing.assert_array_equal(batch["categorical"], arrays.ids[399:450])


def test_fingerprint_tells_data_apart(tmp_path):
    write_raw(tmp_path / "train_data.bin", random_arrays(50, seed=1))
    first = open_split(tmp_path / "train_data.bin", vocab_sizes=VOCAB_SIZES).fingerprint
    again = open_split(tmp_path / "train_data.bin", vocab_sizes=VOCAB_SIZES).fingerprint
    write_raw(tmp_path / "train_data.bin", random_arrays(50, seed=2))
    other = open_split(tmp_path / "train_data.bin", vocab_sizes=VOCAB_SIZES).fingerprint
    assert first == again != other


@pytest.mark.parametrize("tables", [1, 3, 30])
def test_any_number_of_tables(tmp_path, tables):
    sizes = [7 + t for t in range(tables)]
    arrays = random_arrays(64, sizes)
    write_raw(tmp_path / "train_data.bin", arrays)
    description = open_split(tmp_path / "train_data.bin", vocab_sizes=sizes)
    (batch,) = reader.batches(description, 64)
    np.testing.assert_array_equal(batch["categorical"], arrays.ids)


def test_unknown_layout_name(tmp_path):
    with pytest.raises(DatasetError, match="unknown data layout 'parquet': expected auto, raw"):
        open_split(tmp_path, layout="parquet")


def test_vocab_sizes_needed(tmp_path, arrays):
    write_raw(tmp_path / "train_data.bin", arrays)
    with pytest.raises(DatasetError, match="vocabulary sizes are not known"):
        open_split(tmp_path / "train_data.bin")


def test_test_vocabulary_must_be_trains(tmp_path, arrays):
    write_three_file(tmp_path / "train", arrays, seed_metadata())
    larger = [*VOCAB_SIZES[:-1], VOCAB_SIZES[-1] + 1]
    write_three_file(tmp_path / "test", arrays, seed_metadata(larger))
    with pytest.raises(DatasetError, match=r"table 7: train has 3 rows, test 4$"):
        open_dataset(tmp_path)


def test_test_transform_must_be_trains(tmp_path, arrays):
    write_three_file(tmp_path / "train", arrays, seed_metadata())
    write_three_file(tmp_path / "test", arrays, seed_metadata(dense_log=False))
    with pytest.raises(DatasetError, match=r"dense_transform: log\(x\+3\) in train, none in test"):
        open_dataset(tmp_path)
