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


#: NumPy's character of each dtype that the kernel copies.
_ID_TYPES = {np.dtype(char): ord(char) for char in "Bbhi"}


def copy_ids(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> None:
    """Copies the ids of columns side by side to other columns side by side.

    Args:
        sources: int8, uint8, int16 or int32 arrays [n, width], in whose rows ids are adjacent.
        targets: int8, int16 or int32 arrays [n, width] of the same total width, to fill; every
            value fits its column.
    """
    rows, pieces = len(targets[0]), _pieces(sources, targets)
    kernels = native.load()
    if kernels is None:
        _copy_pieces(sources, targets, pieces, rows)
        return
    of, to = ([_facts(array) for array in arrays] for arrays in (sources, targets))
    blocks = []  # `DlrmIdBlock`s of ops/preprocessing/preprocessing.h
    for source, first, target, begin, width in pieces:
        of_address, of_stride, of_size, of_type = of[source]
        to_address, to_stride, to_size, to_type = to[target]
        addresses = of_address + first * of_size, to_address + begin * to_size
        blocks += (*addresses, of_stride, to_stride, width, of_type, to_type)
    kernels.dlrm_copy_ids((ctypes.c_int64 * len(blocks))(*blocks), len(pieces), rows)


def _pieces(sources, targets):
    """Returns (source, its column, target, its column, columns) of each piece of both, in order."""
    pieces, source, first = [], 0, 0
    for target, columns in enumerate(array.shape[1] for array in targets):
        begin = 0
        while begin < columns:
            left = sources[source].shape[1] - first
            width = min(columns - begin, left)
            pieces.append((source, first, target, begin, width))
            begin += width
            source, first = (source, first + width) if width < left else (source + 1, 0)
    return pieces


def _facts(array):
    address = array.__array_interface__["data"][0]
    return address, array.strides[0], array.itemsize, _ID_TYPES[array.dtype]


def _copy_pieces(sources, targets, pieces, rows):
    parts = []
    for source, first, target, begin, width in pieces:
        # NumPy's inner loop is over the columns: a few of them are faster one at a time.
        step = width if width >= _WIDE else 1
        for i in range(0, width, step):
            of = sources[source][:, first + i : first + i + step]
            parts.append((targets[target][:, begin + i : begin + i + step], of))
    for row in range(0, rows, _TILE_SAMPLES):
        tile = slice(row, row + _TILE_SAMPLES)
        for target, source in parts:
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


def _sizes(numbers):
    numbers = list(numbers)
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _addresses(arrays):
    addresses = [array.ctypes.data for array in arrays]
    return (ctypes.c_void_p * len(addresses))(*addresses)
