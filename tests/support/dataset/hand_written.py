"""A small dataset as arrays, and functions that write it in every layout.

They use NumPy's tofile and none of the code under test.
"""

import json
from typing import NamedTuple

import numpy as np

#: Tables at the limits of each stored id dtype, and a few small ones.
VOCAB_SIZES = [5, 126, 127, 1000, 32766, 32767, 200000, 3]


class Arrays(NamedTuple):
    label: np.ndarray  # int32 [n]
    dense: np.ndarray  # int32 [n, 13]
    ids: np.ndarray  # int32 [n, T]

    def slice(self, first, count):
        return Arrays(*(array[first : first + count] for array in self))


def random_arrays(samples, rng, vocab_sizes=VOCAB_SIZES):
    label = rng.integers(0, 2, samples, dtype=np.int32)
    dense = np.exp(rng.normal(2, 2, (samples, 13))).astype(np.int32)
    ids = np.stack([rng.integers(0, v, samples, dtype=np.int32) for v in vocab_sizes], axis=1)
    # The first and the last id of every vocabulary occur.
    if samples > 1:
        ids[0], ids[-1] = 0, np.array(vocab_sizes) - 1
    return Arrays(label, dense, ids)


def narrow(rows):
    return np.int8 if rows < 127 else np.int16 if rows < 32767 else np.int32


def write_raw(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.hstack([arrays.label[:, None], arrays.dense, arrays.ids]).astype("<i4").tofile(path)


def write_three_file(folder, arrays, metadata=None):
    folder.mkdir(parents=True, exist_ok=True)
    arrays.label.tofile(folder / "label.bin")
    arrays.dense.tofile(folder / "dense.bin")
    arrays.ids.tofile(folder / "category.bin")
    if metadata is not None:
        (folder / "metadata.json").write_text(json.dumps(metadata))


def seed_metadata(vocab_sizes=VOCAB_SIZES, dense_log=True):
    return {
        "vocab_sizes": list(vocab_sizes),
        "label_raw_type": "int32",
        "dense_raw_type": "int32",
        "category_raw_type": "int32",
        "dense_log": dense_log,
    }


def write_narrow(folder, arrays, dense, id_name, vocab_sizes=VOCAB_SIZES, shift=1):
    """Writes per-table files; `dense` and `id_name` are this project's or NVIDIA's file names."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays.label.astype(bool).tofile(folder / "label.bin")
    np.log(arrays.dense.astype(np.float64) + shift).astype(np.float16).tofile(folder / dense)
    for table, rows in enumerate(vocab_sizes):
        arrays.ids[:, table].astype(narrow(rows)).tofile(folder / id_name.format(table))


def write_mlperf(folder, arrays):
    folder.mkdir(parents=True, exist_ok=True)
    arrays.label.astype(np.float32).tofile(folder / "label.bin")
    arrays.dense.astype(np.float32).tofile(folder / "numerical.bin")
    for table in range(arrays.ids.shape[1]):
        np.ascontiguousarray(arrays.ids[:, table]).tofile(folder / f"cat_{table}.bin")


def write_days(folder, arrays, lengths, shift=1):
    """Writes TorchRec's day files, with `lengths[k]` samples in day k."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for day, length in enumerate(lengths):
        part = arrays.slice(first, length)
        dense = np.log(part.dense.astype(np.float64) + shift).astype(np.float32)
        np.save(folder / f"day_{day}_dense.npy", dense)
        np.save(folder / f"day_{day}_sparse.npy", part.ids)
        np.save(folder / f"day_{day}_labels.npy", part.label[:, None])
        first += length
