"""Structured files with a random change: the data is read, or the error is one line.

No traceback, no hang, and no memory for data that a file only claims to hold.
"""

import json

import numpy as np
import pytest
import yaml

from dataset import DatasetError, convert, metadata, open_dataset, open_split
from tests.support import damaged_json
from tests.support.dataset import layouts
from tests.support.dataset.feature_specs import SpecDataset
from tests.support.dataset.hand_written import (
    VOCAB_SIZES,
    random_arrays,
    seed_metadata,
    write_days,
    write_three_file,
)

MUTATIONS = 40


def with_fingerprint(document):
    if isinstance(document, dict):
        document["fingerprint"] = metadata.fingerprint(document)
    return document


def raw(root, rng):
    layouts.raw(root, random_arrays(40, rng), random_arrays(20, rng))
    return root / "vocab_sizes.json"


def generator_json(root, rng):
    raw(root, rng)
    files = {name: {"samples": 9, "attainable_auc": 0.5} for name in ("train_data.bin", "x")}
    (root / "generator.json").write_text(json.dumps({"seed": 0, "files": files}))
    return root / "generator.json"


def seed_benchmark(root, rng):
    for name in ("train", "test"):
        content = seed_metadata() | {"hotness_per_table": [1] * len(VOCAB_SIZES)}
        write_three_file(root / name, random_arrays(40, rng), content)
    return root / "train" / "metadata.json"


def own(root, rng):
    raw(root / "raw", rng)
    convert.convert_dataset(open_dataset(root / "raw"), str(root), "three_file", progress=False)
    return root / "train" / "metadata.json"


def model_size(root, rng):
    layouts.deep_learning_examples(root, random_arrays(40, rng), random_arrays(20, rng))
    return root / "model_size.json"


def feature_spec(root, rng):
    SpecDataset(root, rng, 3, places=("a", "."))
    return root / "feature_spec.yaml"


@pytest.mark.parametrize(
    "write", [raw, generator_json, seed_benchmark, own, model_size, feature_spec]
)
def test_open_dataset_reads_or_refuses_a_changed_value(tmp_path, rng, write):
    path = write(tmp_path, rng)
    load, dump = (yaml.safe_load, yaml.dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
    document = load(path.read_text())
    open_dataset(tmp_path)
    refused = 0
    changes = [changed for _, changed in damaged_json.variants(document)]
    for index in rng.choice(len(changes), MUTATIONS):
        changed = changes[index]
        if write is own:
            changed = with_fingerprint(changed)
        path.write_text(dump(changed))
        try:
            open_dataset(tmp_path)
        except DatasetError as error:
            refused += 1
            assert "\n" not in str(error), changed
            assert len(str(error)) < 2000, changed
    assert refused


def test_open_split_reads_or_refuses_a_changed_npy_header(tmp_path, rng):
    write_days(tmp_path, random_arrays(40, rng), [40])
    path = tmp_path / "day_0_dense.npy"
    stored = path.read_bytes()
    for _ in range(200):
        changed = np.frombuffer(stored, np.uint8).copy()
        changed[rng.integers(0, 100, 2)] = rng.integers(0, 256, 2)
        path.write_bytes(changed.tobytes())
        try:
            open_split(tmp_path, vocab_sizes=VOCAB_SIZES)
        except DatasetError as error:
            assert "\n" not in str(error)
