"""Writes the dataset of the programs that read files: per-table layout, uniform ids."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from benchmarks.training.task import DENSE_FEATURES
from storage import atomic

_CHUNK = 1 << 16


def write(
    folder: str | os.PathLike,
    vocab_sizes: Sequence[int],
    samples: int,
    hotness: Sequence[int] = (),
) -> None:
    """Writes train/ and test/ (small, because it is not evaluated) below a folder.

    Every table has `hotness` ids per sample, or one if that is empty. Labels, dense counts below
    1024 and ids are uniform. The files remain in the page cache for the program that reads them
    next.
    """
    from dataset import convert, layouts, open_split, vocabularies
    from dataset.stored_types import Declared

    folder = pathlib.Path(folder)
    atomic.write_json(str(folder / vocabularies.FILE_NAME), list(vocab_sizes))
    hotness = tuple(hotness) or (1,) * len(vocab_sizes)
    for name, raw, count in zip(("train", "test"), layouts.RAW_FILES, (samples, _CHUNK)):
        path = folder / raw
        random = np.random.default_rng([1, count])
        with open(path, "wb") as file:
            for first in range(0, count, _CHUNK):
                bounds = np.repeat(vocab_sizes, hotness)
                file.write(_records(random, bounds, min(_CHUNK, count - first)).data)
        split = open_split(str(path), declared=Declared(hotness=hotness))
        convert.convert_split(split, str(folder / name), "per_table", progress=False)
        path.unlink()


def _records(random: np.random.Generator, bounds: np.ndarray, samples: int) -> np.ndarray:
    records = np.empty((samples, 1 + DENSE_FEATURES + len(bounds)), np.int32)
    records[:, 0] = random.integers(0, 2, samples)
    records[:, 1 : 1 + DENSE_FEATURES] = random.integers(0, 1024, (samples, DENSE_FEATURES))
    records[:, 1 + DENSE_FEATURES :] = random.integers(0, bounds, (samples, len(bounds)))
    return records
