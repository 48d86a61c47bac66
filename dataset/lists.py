"""Variable features: lists of ids of any length, one after another, and where each list begins.

The ids of a feature are the values in one file. The boundaries are int64 [samples + 1] in another:
list s is values[boundaries[s] : boundaries[s + 1]]. The first boundary is 0, the last one the
number of values.
"""

from __future__ import annotations

import os

import numpy as np

from dataset import files
from dataset.columns import CATEGORICAL, Column, check_dtype
from dataset.errors import DatasetError
from ops.bags import Bags
from storage import regular

BOUNDARY_BYTES = 8
BOUNDARY_DTYPE = "<i8"


def describe(
    values: str, boundaries: str, dtype: str, samples: int, table: int, bags: Bags
) -> Column:
    """Returns the `Column` of a variable feature in one pair of files, whose sizes must match.

    Args:
        values: path of the ids.
        boundaries: path of the lists' boundaries.
        dtype: dtype of the ids.
        samples: number of lists.
        table: the feature's table.
        bags: the feature's slots.

    Raises:
        DatasetError: the dtype is not allowed, a size does not match, or the first or last
            boundary is wrong.
    """
    check_dtype(CATEGORICAL, dtype, values)
    files.expect_samples(boundaries, BOUNDARY_BYTES, samples + 1)
    first, last = (_boundary(boundaries, index) for index in (0, samples))
    if first != 0:
        raise DatasetError.mismatch(boundaries, "first offset", 0, first, sample=0)
    size = np.dtype(dtype).itemsize
    found, rest = divmod(files.size(values), size)
    if last != found or rest:
        raise DatasetError.of_path(
            values,
            f"expected {last} ids of {size} bytes, the last offset in {boundaries}, found "
            f"{files.size(values)} bytes",
            expected=last * size,
            found=files.size(values),
        )
    return Column(
        CATEGORICAL,
        files.single_segment(values, found),
        dtype,
        width=1,
        stride=size,
        first_table=table,
        bags=bags,
        offsets=files.single_segment(boundaries, samples),
    )


def _boundary(path, index):
    try:
        with regular.open_regular(path) as file:
            file.seek(index * BOUNDARY_BYTES)
            return int(np.frombuffer(file.read(BOUNDARY_BYTES), BOUNDARY_DTYPE)[0])
    except OSError as error:
        raise DatasetError.of_os(error, os.fspath(path)) from error


def check_boundaries(column: Column, segment: int, first: int, boundaries: np.ndarray) -> None:
    """Checks the boundaries of successive lists.

    Args:
        column: a column with a variable feature.
        segment: index of the lists' segment.
        first: index of the first list in the segment.
        boundaries: int64 [lists + 1].

    Raises:
        DatasetError: the first boundary of the segment is not 0, a boundary is smaller than the
            one before it or larger than the number of values, or a list is longer than the
            feature's hotness.
    """
    offsets, values = column.offsets[segment], column.segments[segment].samples
    before = sum(part.samples for part in column.offsets[:segment])
    (hotness,) = column.features.hotness
    lengths = np.diff(boundaries)
    expected, position, what = None, 0, "offset"
    if first == 0 and boundaries[0] != 0:
        expected = 0
    elif boundaries[0] < 0 or (lengths < 0).any():
        position = 0 if boundaries[0] < 0 else 1 + int(np.argmax(lengths < 0))
        expected = f"at least {boundaries[position - 1] if position else 0}"
    elif boundaries[-1] > values:
        position = int(np.argmax(boundaries > values))
        expected = f"at most {values}, the ids in {column.segments[segment].path}"
    elif first + len(lengths) == offsets.samples and boundaries[-1] != values:
        position = len(lengths)
        expected = f"{values}, the ids in {column.segments[segment].path}"
    if expected is not None:
        found = int(boundaries[position])
    elif (lengths > hotness).any():
        position, what = int(np.argmax(lengths > hotness)), "ids in its list"
        expected, found = f"at most {hotness}, the hotness", int(lengths[position])
    else:
        return
    sample, table = before + first + position, column.first_table
    raise DatasetError.mismatch(
        offsets.path, f"table {table}, sample {sample}: {what}", expected, found,
        table=table, sample=sample,
    )  # fmt: skip
