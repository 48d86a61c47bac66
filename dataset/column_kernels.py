"""Converts between records, columns and narrow ids: with native kernels if built, else with NumPy.

Each function processes a complete chunk in one call, so that threads rarely wait for the
interpreter lock. Both ways give the same results.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from dataset.preprocessing import native

#: Samples that NumPy processes at a time, so that all passes over them stay in the cache.
_TILE_SAMPLES = 2048
#: Adjacent columns that NumPy copies faster together.
_WIDE = 8


def split_records(
    records: np.ndarray, stride: int, fields: Sequence[tuple[int, np.ndarray]]
) -> None:
    """Copies fields of records to columns.

    Args:
        records: uint8 vector of complete records.
        stride: bytes per record.
        fields: list of (byte offset in the record, contiguous array [records, width] to fill).
    """
    rows = records.size // stride
    if not rows:
        return
    kernels = native.load()
    if kernels is None:
        for offset, column in fields:
            strides = (stride, column.itemsize)
            column[...] = np.ndarray(column.shape, column.dtype, records, offset, strides)
        return
    kernels.dlrm_split_records(
        records.ctypes.data,
        rows,
        stride,
        len(fields),
        _sizes(offset for offset, _ in fields),
        _sizes(column.shape[1] * column.itemsize for _, column in fields),
        _addresses(column for _, column in fields),
    )


def narrow_ids(ids: Sequence[np.ndarray], columns: Sequence[np.ndarray]) -> None:
    """Copies ids into one column per table.

    Args:
        ids: list of integer arrays [n, width], side by side; every value fits its column.
        columns: one array [n] or [n, hotness] of int8, int16 or int32 per table, to fill.
    """
    kernels = native.load()
    (first, *others), rows = ids, len(ids[0])
    if (
        kernels is not None
        and not others
        and first.dtype == np.int32
        and _is_contiguous(first)
        and all(column.size == rows for column in columns)
    ):
        widths = _sizes(column.itemsize for column in columns)
        kernels.dlrm_narrow_ids(first.ctypes.data, rows, len(columns), widths, _addresses(columns))
        return
    _copy_columns(ids, [c[:, None] if c.ndim == 1 else c for c in columns], rows)


def widen_ids(ids: Sequence[np.ndarray], out: np.ndarray) -> None:
    """Copies ids into one array, side by side.

    Args:
        ids: list of integer arrays [n, width].
        out: int32 [n, sum of the widths], to fill.
    """
    kernels = native.load()
    narrow = all(
        part.shape[1] == 1 and _is_contiguous(part) and part.dtype.kind == "i" for part in ids
    )
    if (
        kernels is not None
        and narrow
        and max(part.itemsize for part in ids) <= 4
        and _is_contiguous(out)
    ):
        widths = _sizes(part.itemsize for part in ids)
        kernels.dlrm_widen_ids(_addresses(ids), widths, len(out), len(ids), out.ctypes.data)
        return
    _copy_columns(ids, [out], len(out))


def _copy_columns(sources, targets, rows):
    """Copies values side by side from arrays [rows, width] to arrays [rows, width]."""
    pairs, remaining = [], [(source, 0) for source in reversed(sources)]
    for target in targets:
        begin = 0
        while begin < target.shape[1]:
            source, first = remaining.pop()
            width = min(target.shape[1] - begin, source.shape[1] - first)
            if first + width < source.shape[1]:
                remaining.append((source, first + width))
            # NumPy's inner loop is over the columns: a few of them are faster one at a time.
            step = width if width >= _WIDE else 1
            for offset in range(0, width, step):
                to, of = begin + offset, first + offset
                pairs.append((target[:, to : to + step], source[:, of : of + step]))
            begin += width
    for row in range(0, rows, _TILE_SAMPLES):
        tile = slice(row, row + _TILE_SAMPLES)
        for target, source in pairs:
            target[tile] = source[tile]


def look_up(table: np.ndarray, counts: np.ndarray, out: np.ndarray) -> bool:
    """Fills `out` with table[counts]; its values for counts outside the table are undefined.

    Args:
        table: float16 vector.
        counts: contiguous int32 array.
        out: float16 array of the same shape.

    Returns:
        Whether any count is outside the table.
    """
    kernels = native.load()
    if kernels is None:
        table.take(counts, mode="clip", out=out)
        return bool((counts.view(np.uint32) >= len(table)).any())
    addresses = counts.ctypes.data, counts.size, table.ctypes.data, len(table), out.ctypes.data
    return kernels.dlrm_look_up(*addresses) > 0


def halves_to_floats(values: np.ndarray, out: np.ndarray) -> None:
    """Fills float32 `out` with finite, contiguous float16 values of the same shape."""
    kernels = native.load()
    if kernels is None:
        out[...] = values
    else:
        kernels.dlrm_halves_to_floats(values.ctypes.data, values.size, out.ctypes.data)


def _is_contiguous(array):
    return array.flags.c_contiguous


def _sizes(numbers):
    numbers = list(numbers)
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _addresses(arrays):
    addresses = [array.ctypes.data for array in arrays]
    return (ctypes.c_void_p * len(addresses))(*addresses)
