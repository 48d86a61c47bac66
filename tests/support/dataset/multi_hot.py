"""Small datasets with several ids per feature, written by none of the code under test."""

import hashlib
import json
from typing import NamedTuple

import numpy as np
import xxhash

from ops.bags import EMPTY, Bags
from tests.support.dataset.hand_written import narrow

VOCAB_SIZES = [5, 200, 40000, 126, 3]
#: Features with one id, with a fixed number, and (but for `FIXED`) with lists of any length.
FIXED = Bags.of([1, 3, 4, 2, 7], ["sum", "sum", "mean", "sum", "mean"])
VARIABLE = Bags(FIXED.hotness, FIXED.pooling, (False, False, True, True, False))
#: Samples of a block of a digest.
BLOCK = 65536


class Samples(NamedTuple):
    label: np.ndarray  # int32 [n]
    dense: np.ndarray  # int32 [n, 13]
    ids: list  # of each feature: int32 [n, hotness], or (int32 [values], lengths [n])
    bags: Bags

    @property
    def matrix(self):
        """int32 [n, W], with `EMPTY` after lists."""
        parts = []
        for feature, ids in enumerate(self.ids):
            part = ids
            if isinstance(ids, tuple):
                values, lengths = ids
                part = np.full((len(lengths), self.bags.hotness[feature]), EMPTY, np.int32)
                part[np.arange(part.shape[1]) < lengths[:, None]] = values
            parts.append(part)
        return np.hstack(parts)


def random_samples(rng, samples, bags=FIXED, vocab_sizes=VOCAB_SIZES):
    """Draws samples; every feature has its first and last id, lists of no id and of most ids."""
    ids = []
    for rows, hotness, variable in zip(vocab_sizes, bags.hotness, bags.variable):
        if variable:
            lengths = rng.integers(0, hotness, samples, endpoint=True)
            lengths[rng.permutation(samples)[:2]] = 0, hotness
            values = rng.integers(0, rows, lengths.sum(), dtype=np.int32)
            values[0], values[-1] = 0, rows - 1
            ids.append((values, lengths))
        else:
            values = rng.integers(0, rows, (samples, hotness), dtype=np.int32)
            values[0], values[-1] = 0, rows - 1
            ids.append(values)
    label = rng.integers(0, 2, samples, dtype=np.int32)
    dense = np.exp(rng.normal(2, 2, (samples, 13))).astype(np.int32)
    return Samples(label, dense, ids, bags)


def first(drawn, count):
    """Returns the first `count` samples."""
    ids = [
        (part[0][: part[1][:count].sum()], part[1][:count])
        if isinstance(part, tuple)
        else part[:count]
        for part in drawn.ids
    ]
    return Samples(drawn.label[:count], drawn.dense[:count], ids, drawn.bags)


def write_raw(path, drawn):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.hstack([drawn.label[:, None], drawn.dense, drawn.matrix]).astype("<i4").tofile(path)


def write_three_file(folder, drawn, vocab_sizes=VOCAB_SIZES, **metadata):
    """Writes a split of the seed benchmark."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn.label.tofile(folder / "label.bin")
    drawn.dense.tofile(folder / "dense.bin")
    drawn.matrix.tofile(folder / "category.bin")
    content = {"vocab_sizes": vocab_sizes, "hotness_per_table": list(drawn.bags.hotness)}
    (folder / "metadata.json").write_text(json.dumps(content | metadata))


def write_narrow(folder, drawn, dense, id_name, vocab_sizes=VOCAB_SIZES):
    """Writes per-table files; returns {file name: its array, cut into the blocks of a digest}."""
    folder.mkdir(parents=True, exist_ok=True)
    half = np.log(drawn.dense.astype(np.float64) + 1).astype(np.float16)
    samples = len(drawn.label)
    cuts = list(range(BLOCK, samples, BLOCK))
    blocks = {
        "label.bin": np.split(drawn.label.astype(np.uint8), cuts), dense: np.split(half, cuts)
    }  # fmt: skip
    for table, (rows, ids) in enumerate(zip(vocab_sizes, drawn.ids)):
        name = id_name.format(table)
        if isinstance(ids, tuple):
            boundaries = np.cumsum([0, *ids[1]], dtype=np.int64)
            blocks[name] = np.split(ids[0].astype(narrow(rows)), boundaries[cuts])
            blocks[name.replace(".bin", "_offsets.bin")] = np.split(boundaries, cuts)
        else:
            blocks[name] = np.split(ids.astype(narrow(rows)), cuts)
    for name, parts in blocks.items():
        np.concatenate(parts).tofile(folder / name)
    return blocks


def fingerprint(content):
    rest = {key: value for key, value in content.items() if key != "fingerprint"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def write_per_table(folder, drawn, vocab_sizes=VOCAB_SIZES):
    """Writes a split of this project; returns the content of its metadata.json."""
    blocks = write_narrow(folder, drawn, "dense.bin", "category_{}.bin", vocab_sizes)

    def entry(kind, file, dtype, width):
        each = b"".join(xxhash.xxh3_128(np.ascontiguousarray(b)).digest() for b in blocks[file])
        digest = "xxh3-128-blocks:" + xxhash.xxh3_128(each).hexdigest()
        return {"kind": kind, "file": file, "dtype": dtype, "width": width, "digest": digest}

    columns = [entry("label", "label.bin", "bool", 1), entry("dense", "dense.bin", "float16", 13)]
    for table, rows in enumerate(vocab_sizes):
        hotness, variable = drawn.bags.hotness[table], drawn.bags.variable[table]
        dtype, name = np.dtype(narrow(rows)).name, f"category_{table}"
        column = entry("categorical", f"{name}.bin", dtype, 1 if variable else hotness)
        if variable or hotness > 1:
            column |= {"hotness": [hotness], "pooling": [drawn.bags.pooling[table]]}
        if variable:
            offsets = entry("", f"{name}_offsets.bin", "", 1)
            column["offsets"] = {key: offsets[key] for key in ("file", "digest")}
        columns.append(column)
    content = {
        "format_version": 2, "layout": "per_table", "samples": len(drawn.label),
        "vocab_sizes": vocab_sizes, "dense_transform": "none", "columns": columns,
        "applied_transform": "log(x+1)",
    }  # fmt: skip
    content["fingerprint"] = fingerprint(content)
    (folder / "metadata.json").write_text(json.dumps(content))
    return content
