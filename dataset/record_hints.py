"""What raw records may be if they are not this project's: a hint for the message that says so."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from storage import regular

#: Records looked at, from the start of the file.
_RECORDS = 64
#: Ids of a sample in each table of the MLPerf benchmark's multi-hot data (DLRM-DCNv2).
_DCNV2_HOTNESS = (
    3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1,
)  # fmt: skip
#: A label of 1, as int32 and as float32.
_ONES = (1, 0x3F800000)


class _Format(NamedTuple):
    what: str
    record: int
    # Words of a record whose value is 0: the upper halves of 8-byte numbers that are not negative.
    zeros: tuple


def find_other_format(path: str, dense_features: int, tables: int) -> str:
    """Returns which records of another format the file holds, or "".

    A format is named if its record size divides the file's and the first records make sense in it
    (labels are 0 or 1, upper halves of int64 are 0) but not in this project's.

    Args:
        path: a raw file; its size need not be right.
        dense_features: dense features expected.
        tables: tables expected.
    """
    words = 1 + dense_features + tables
    with regular.open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        stored = file.read(_RECORDS * 8 * (words + sum(_DCNV2_HOTNESS)))
    stored = np.frombuffer(stored[: len(stored) // 4 * 4], "<u4")
    if not size or (size % (4 * words) == 0 and _fits(stored, _Format("", 4 * words, ()))):
        return ""
    first_id = 1 + dense_features
    formats = [
        _Format(
            "int64 ids", 4 * first_id + 8 * tables,
            tuple(range(first_id + 1, first_id + 2 * tables, 2)),
        ),
        _Format("8-byte values throughout", 8 * words, ()),
        _Format("multi-hot ids of DLRM-DCNv2", 4 * (first_id + sum(_DCNV2_HOTNESS)), ()),
    ]  # fmt: skip
    for found in formats:
        if size % found.record == 0 and _fits(stored, found):
            return (
                f"records of {found.record} bytes, as with {found.what}: expected {4 * words} "
                f"bytes (label, {dense_features} dense values and {tables} ids of 4 bytes each)"
            )
    return ""


def _fits(stored, form):
    width = form.record // 4
    records = stored[: len(stored) // width * width].reshape(-1, width)[:_RECORDS]
    labels = records[:, 0]
    return (
        len(records) > 0
        and bool(((labels == 0) | np.isin(labels, _ONES)).all())
        and not records[:, list(form.zeros)].any()
    )
