"""Whatever one value of a structured file becomes, the data is read or the error is one line.

No traceback, no hang, no memory for what a file only claims to hold.
"""

import copy
import json
import random

import numpy as np
import pytest
import yaml

from dataset import DatasetError, convert, metadata, open_dataset, open_split
from tests.support.dataset.hand_written import (
    VOCAB_SIZES,
    random_arrays,
    seed_metadata,
    write_three_file,
)
from tests.unit.dataset import test_layouts as layouts
from tests.unit.dataset.test_feature_spec import Written

MUTATIONS = 80
JUNK = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**300, 0.5, -1e300, "", "x", "..", "/", "a/b",
    "int64", "float16", "\0", "\ud7ff", "5", [], [1], ["x"], [[]], {}, {"x": 1}, {"x": {"y": []}},
    [None] * 1000, "x" * 1000,
]  # fmt: skip


def places(value, at=()):
    """Returns the paths of all values in a document, the document's own too."""
    found = [at]
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            found += places(item, (*at, key))
    return found


def mutated(document, generator):
    document = copy.deepcopy(document)
    (*path, last) = generator.choice(places(document)[1:])
    holder = document
    for key in path:
        holder = holder[key]
    how = generator.randrange(4)
    if how == 0:
        del holder[last]
    elif how == 1 and isinstance(holder, dict):
        holder[generator.choice(["x", "dtype", "layout", "hotness"])] = holder[last]
    else:
        holder[last] = generator.choice(JUNK)
    return document


def with_fingerprint(document):
    if isinstance(document, dict):
        document["fingerprint"] = metadata.fingerprint(document)
    return document


def raw(root):
    layouts.raw(root, random_arrays(40), random_arrays(20))
    return root / "vocab_sizes.json"


def generator_json(root):
    raw(root)
    files = {name: {"samples": 9, "attainable_auc": 0.5} for name in ("train_data.bin", "x")}
    (root / "generator.json").write_text(json.dumps({"seed": 0, "files": files}))
    return root / "generator.json"


def seed(root):
    for name in ("train", "test"):
        content = seed_metadata() | {"hotness_per_table": [1] * len(VOCAB_SIZES)}
        write_three_file(root / name, random_arrays(40), content)
    return root / "train" / "metadata.json"


def own(root, layout="three_file"):
    raw(root / "raw")
    convert.convert_dataset(open_dataset(root / "raw"), str(root), layout, progress=False)
    return root / "train" / "metadata.json"


def per_table(root):
    return own(root, "per_table")


def model_size(root):
    layouts.deep_learning_examples(root, random_arrays(40), random_arrays(20))
    return root / "model_size.json"


def feature_spec(root):
    Written(root, 3, places=("a", "."))
    return root / "feature_spec.yaml"


@pytest.mark.parametrize(
    "write", [raw, generator_json, seed, own, per_table, model_size, feature_spec]
)
def test_a_changed_value_is_read_or_refused_in_one_line(tmp_path, write):
    path = write(tmp_path)
    load, dump = (yaml.safe_load, yaml.dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
    document = load(path.read_text())
    open_dataset(tmp_path)
    generator = random.Random(20261128)
    refused = 0
    for _ in range(MUTATIONS):
        changed = mutated(document, generator)
        if write in (own, per_table):
            changed = with_fingerprint(changed)
        path.write_text(dump(changed))
        try:
            open_dataset(tmp_path)
        except DatasetError as error:
            refused += 1
            assert "\n" not in str(error), changed
            assert len(str(error)) < 2000, changed
    assert refused > MUTATIONS // 4


def test_a_changed_header_of_an_array_is_read_or_refused_in_one_line(tmp_path):
    layouts.write_days(tmp_path, random_arrays(40), [40])
    path = tmp_path / "day_0_dense.npy"
    stored = path.read_bytes()
    generator = np.random.default_rng(20261128)
    for _ in range(300):
        changed = np.frombuffer(stored, np.uint8).copy()
        changed[generator.integers(0, 100, 2)] = generator.integers(0, 256, 2)
        path.write_bytes(changed.tobytes())
        try:
            open_split(tmp_path, vocab_sizes=VOCAB_SIZES)
        except DatasetError as error:
            assert "\n" not in str(error)
