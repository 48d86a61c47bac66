"""Functions (root, train, test) that write a complete dataset in each layout."""

import json

import numpy as np

from tests.support.dataset.hand_written import (
    VOCAB_SIZES,
    seed_metadata,
    write_days,
    write_mlperf,
    write_narrow,
    write_raw,
    write_three_file,
)


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


def mlperf(root, train, test):
    write_mlperf(root / "train", train)
    write_mlperf(root / "test", test)
    write_sizes(root)


def torchrec(root, train, test):
    write_days(root / "train", train, [400, 1, 300, 296])
    write_days(root / "test", test, [len(test.label)])
    write_sizes(root)


#: (writer, layout, expected model input for a count, tolerance).
LAYOUTS = [
    (raw, "raw", lambda x: np.log(x + 1), 3e-7),
    (three_file, "three_file", lambda x: np.log(x + 3), 3e-7),
    (three_file_without_log, "three_file", lambda x: x, 0),
    (three_file_bare, "three_file", lambda x: np.log(x + 3), 3e-7),
    (per_table, "per_table", lambda x: np.log(x + 1).astype(np.float16), 0),
    (deep_learning_examples, "deep_learning_examples", lambda x: np.log(x + 3), 1e-3),
    (mlperf, "mlperf_v0.7", lambda x: np.log(x + 1), 3e-7),
    (torchrec, "torchrec", lambda x: np.log(x + 1), 3e-7),
]
