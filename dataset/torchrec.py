"""Layouts of TorchRec's DLRM example: one folder of files for each part of each day.

* torchrec: day_k_{dense,sparse,labels}.npy, one id per table, from `npy_preproc_criteo`.
* torchrec_multi_hot: the same with day_k_sparse_multi_hot.npz, the MLPerf benchmark's data: one
  array of the archive per table, with the table's ids of each sample. It is read in place.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dataset import files
from dataset.columns import CATEGORICAL, DENSE, LABEL, Column, DatasetDescription
from dataset.describe import DENSE_FEATURES
from dataset.errors import DatasetError
from dataset.hotness import make_bags
from dataset.numpy_files import StoredArray, npy_array, npz_arrays
from ops.bags import Bags

if TYPE_CHECKING:
    from dataset.layouts import Hints

ONE_HOT, MULTI_HOT = "torchrec", "torchrec_multi_hot"
#: Names of the layouts.
LAYOUTS = (ONE_HOT, MULTI_HOT)
_DAY = re.compile(r"day_(\d+)_(?:dense\.npy|labels\.npy|sparse\.npy|sparse_multi_hot\.npz)")
_ONE_HOT_IDS = re.compile(r"day_\d+_sparse\.npy")
_MULTI_HOT_IDS = re.compile(r"day_\d+_sparse_multi_hot\.npz")


def day_numbers(folder: str) -> list[int]:
    """Returns the sorted numbers of the TorchRec days in `folder`."""
    matches = map(_DAY.fullmatch, files.names_in(folder))
    return sorted({int(match[1]) for match in matches if match})


def recognise(folder: str) -> str:
    """Returns the layout of a folder of TorchRec days; with ids of both kinds, `ONE_HOT`."""
    names = files.names_in(folder)
    if any(map(_ONE_HOT_IDS.fullmatch, names)):
        return ONE_HOT
    return MULTI_HOT if any(map(_MULTI_HOT_IDS.fullmatch, names)) else ONE_HOT


def one_hot(folder: str, hints: Hints) -> DatasetDescription:
    """Describes all days of a folder with one id per table, in order, as one split."""
    return _describe_all(folder, hints, ONE_HOT)


def multi_hot(folder: str, hints: Hints) -> DatasetDescription:
    """Describes all days of a folder with multi-hot ids, in order, as one split."""
    return _describe_all(folder, hints, MULTI_HOT)


def open_days(
    folder: str, hints: Hints, layout: str
) -> tuple[DatasetDescription, DatasetDescription]:
    """Describes a flat folder of days: the last day gives the test split, the others train.

    The test split is the first half (rounded up) of the last day, as in the MLPerf benchmark.
    TorchRec's example uses that half for validation.

    Args:
        folder: the folder.
        hints: known facts.
        layout: one of `LAYOUTS`.

    Returns:
        (train, test) descriptions.
    """
    days = day_numbers(folder)
    if len(days) < 2:
        what = "days (the last one is the test split)"
        raise DatasetError.mismatch(folder, what, "at least 2", len(days))
    sizes = hints.find_vocab_sizes(folder)
    train = _describe_days(folder, days[:-1], sizes, layout)
    return train, _describe_days(folder, days[-1:], sizes, layout, first_half=True)


def _describe_all(folder, hints, layout):
    days = day_numbers(folder)
    if not days:
        ids = "sparse.npy" if layout == ONE_HOT else "sparse_multi_hot.npz"
        raise DatasetError.of_path(folder, f"missing files day_*_{{dense.npy,labels.npy,{ids}}}")
    return _describe_days(folder, days, hints.find_vocab_sizes(folder), layout)


class _Part(NamedTuple):
    """An array of a day: a column, or one day of it."""

    path: str
    kind: str
    first_table: int
    array: StoredArray


_DTYPES = {LABEL: "int32", DENSE: "float32", CATEGORICAL: "int32"}


def _describe_days(folder, days, sizes, layout, first_half=False):
    parts_of_days = [_parts(folder, day, len(sizes), layout) for day in days]
    widths = [part.array.width for part in parts_of_days[0]]
    columns = []
    for parts in parts_of_days:
        found = [part.array.width for part in parts]
        if found != widths:
            what = f"ids per sample of each table, as in day {days[0]}"
            raise DatasetError.mismatch(parts[-1].path, what, widths[2:], found[2:])
    for part_of_days in zip(*parts_of_days):
        _, kind, first_table, (_, width, _) = part_of_days[0]
        segments = []
        for path, _, _, (rows, _, offset) in part_of_days:
            kept = (rows + 1) // 2 if first_half else rows
            segments += files.single_segment(path, kept, offset)
        dtype = _DTYPES[kind]
        stride = width * np.dtype(dtype).itemsize
        several = kind == CATEGORICAL and layout == MULTI_HOT and width > 1
        bags = Bags.of((width,)) if several else None
        columns.append(Column(kind, tuple(segments), dtype, width, stride, first_table, bags=bags))
    paths = list(dict.fromkeys(part.path for parts in parts_of_days for part in parts))
    return DatasetDescription(
        path=folder,
        layout=layout,
        samples=columns[0].samples,
        vocab_sizes=sizes,
        columns=tuple(columns),
        fingerprint=files.sampled_fingerprint(paths, (layout, sizes, first_half)),
    )


def _parts(folder, day, tables, layout) -> list[_Part]:
    """Returns the parts of a day in column order; they have equal numbers of rows."""
    labels, dense = (os.path.join(folder, f"day_{day}_{name}.npy") for name in ("labels", "dense"))
    for path in (labels, dense):
        if layout == MULTI_HOT and not files.exists(path):
            # The published script writes the ids alone.
            problem = "missing file; link the labels and dense values of the one-hot data here"
            raise DatasetError.of_path(path, problem)
    parts = [
        _Part(labels, LABEL, 0, npy_array(labels, _DTYPES[LABEL], 1)),
        _Part(dense, DENSE, 0, npy_array(dense, _DTYPES[DENSE], DENSE_FEATURES)),
    ]
    dtype = _DTYPES[CATEGORICAL]
    if layout == ONE_HOT:
        path = os.path.join(folder, f"day_{day}_sparse.npy")
        parts.append(_Part(path, CATEGORICAL, 0, npy_array(path, dtype, tables)))
    else:
        path = os.path.join(folder, f"day_{day}_sparse_multi_hot.npz")
        arrays = npz_arrays(path, dtype, tables)
        make_bags([array.width for array in arrays], None, tables, path)
        parts += [_Part(path, CATEGORICAL, table, array) for table, array in enumerate(arrays)]
    expected = parts[0].array.rows
    for part in parts:
        if part.array.rows != expected:
            name, found = os.path.basename(labels), part.array.rows
            raise DatasetError.of_path(
                part.path,
                f"sample counts differ: expected {expected} rows as in {name}, found {found}",
                expected=expected,
                found=found,
            )
    return parts
