"""A dataset on disk for the program that reads one: per-table files, ids uniform."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from benchmarks.training.task import DENSE_FEATURES
from storage import atomic

_CHUNK = 1 << 16


def write(
    folder: str | os.PathLike, vocab_sizes: Sequence[int], samples: int, seed: int = 1
) -> float:
    """Writes train/ and test/ (the latter small: it is not scored) below a folder.

    Labels are fair coins, dense counts uniform below 1024, ids uniform. The files are read
    next by the training program, so they are in the page cache.

    Args:
        folder: to write into.
        vocab_sizes: rows of each table.
        samples: of train/.
        seed: of the draw.

    Returns:
        Bytes of train/ per sample.
    """
    from dataset import convert, layouts, open_split, vocabularies

    folder = pathlib.Path(folder)
    atomic.write_json(str(folder / vocabularies.FILE_NAME), list(vocab_sizes))
    for name, raw, count in zip(("train", "test"), layouts.RAW_FILES, (samples, _CHUNK)):
        path = folder / raw
        random = np.random.default_rng([seed, count])
        with open(path, "wb") as file:
            for first in range(0, count, _CHUNK):
                file.write(_records(random, vocab_sizes, min(_CHUNK, count - first)).data)
        convert.convert_split(
            open_split(str(path)), str(folder / name), "per_table", progress=False
        )
        path.unlink()
    return open_split(str(folder / "train")).bytes_per_sample


def _records(random: np.random.Generator, vocab_sizes: Sequence[int], samples: int) -> np.ndarray:
    records = np.empty((samples, 1 + DENSE_FEATURES + len(vocab_sizes)), np.int32)
    records[:, 0] = random.integers(0, 2, samples)
    records[:, 1 : 1 + DENSE_FEATURES] = random.integers(0, 1024, (samples, DENSE_FEATURES))
    records[:, 1 + DENSE_FEATURES :] = random.integers(
        0, np.array(vocab_sizes), (samples, len(vocab_sizes))
    )
    return records
