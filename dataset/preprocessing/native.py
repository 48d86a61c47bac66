"""The native kernels of preprocessing and the other data tools, where they are built (`make ops`).

They are plain C, without TensorFlow. Everything works without them: whoever calls `load` has NumPy
code or SQL for when it returns None, with the same results. Executors of a cluster, which are sent
Python files alone, take that.
"""

from __future__ import annotations

import ctypes
import functools
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from dataset.preprocessing.columns import Samples

if TYPE_CHECKING:
    import pyarrow as pa

PATH = pathlib.Path(__file__).resolve().parents[2] / "ops" / "libdlrm_preprocessing.so"
#: What `dlrm_preprocessing_version` of a library built from these sources returns.
_VERSION = 4
#: Bytes of the shortest good line: a label, 39 tabs and LF.
_SHORTEST_LINE = 41
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64
#: Name: (result, arguments).
_FUNCTIONS = {
    "dlrm_count_lines": (_SIZE, [_POINTER, _SIZE]),
    "dlrm_decode_lines": (_SIZE, [_POINTER, _SIZE, _SIZE, *[_POINTER] * 7]),
    "dlrm_find_ids": (
        _SIZE,
        [_POINTER, _POINTER, _SIZE, _SIZE, ctypes.c_uint32, _POINTER, _SIZE, _POINTER],
    ),
    "dlrm_count_values": (
        None,
        [_POINTER, _POINTER, _SIZE, _SIZE, ctypes.c_uint32, _POINTER],
    ),
    "dlrm_split_records": (None, [_POINTER, *[_SIZE] * 3, *[_POINTER] * 3]),
    "dlrm_narrow_ids": (None, [_POINTER, _SIZE, _SIZE, _POINTER, _POINTER]),
    "dlrm_widen_ids": (None, [_POINTER, _POINTER, _SIZE, _SIZE, _POINTER]),
    "dlrm_look_up": (_SIZE, [_POINTER, _SIZE, _POINTER, ctypes.c_uint32, _POINTER]),
    "dlrm_halves_to_floats": (None, [_POINTER, _SIZE, _POINTER]),
    "dlrm_count_hashed": (
        _SIZE,
        [_POINTER, _POINTER, _SIZE, _SIZE, _POINTER, _SIZE, _SIZE, _POINTER],
    ),
    "dlrm_rehash": (None, [_POINTER, _SIZE, _POINTER, _SIZE]),
    "dlrm_to_records": (None, [_POINTER, _SIZE, _POINTER]),
}


@functools.cache
def load() -> ctypes.CDLL | None:
    """Returns the library, or None where it is not built, or was built from other sources."""
    try:
        found = ctypes.CDLL(str(PATH))
        found.dlrm_preprocessing_version.restype = ctypes.c_int32
        if found.dlrm_preprocessing_version() != _VERSION:
            return None
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return found


def describe() -> str:
    """Returns, for the user, which kernels do the work."""
    if load() is not None:
        return "native"
    state = "does not fit these sources" if PATH.exists() else "is not built"
    return f"NumPy, which is slower ({PATH.name} {state}: make ops)"


def address(array: np.ndarray) -> int:
    """Returns where an array's first element lies."""
    return array.ctypes.data


def decode_lines(
    kernels: ctypes.CDLL, text: bytes | memoryview
) -> tuple[Samples, list[tuple[int, int, int]], int]:
    """Decodes whole lines.

    Args:
        kernels: what `load` returned.
        text: bytes-like; what follows its last LF is left out.

    Returns:
        samples: Samples, of the good lines in order.
        bad_lines: list of (number from 0, first byte, position of the LF) of the malformed ones.
        lines: how many there are of both.

    Raises:
        MemoryError: there is none left.
    """
    content = np.frombuffer(text, np.uint8)
    lines = kernels.dlrm_count_lines(address(content), content.size)
    room = min(lines, content.size // _SHORTEST_LINE)
    samples = Samples.empty(room)
    bad = np.empty((lines, 3), np.int64)
    bad_lines = ctypes.c_int64()
    columns = (samples.label, samples.dense, samples.dense_present, samples.values, samples.present)
    rows = kernels.dlrm_decode_lines(
        address(content),
        content.size,
        room,
        *(address(column) for column in columns),
        address(bad),
        ctypes.addressof(bad_lines),
    )
    if rows < 0:
        raise MemoryError(f"no memory to decode {content.size} bytes of text")
    found = [tuple(line) for line in bad[: bad_lines.value].tolist()]
    return samples if rows == room else samples.first(rows), found, lines


def find_ids(
    kernels: ctypes.CDLL,
    column: pa.Array,
    max_rows: int | None,
    table: np.ndarray,
    slots: int,
    ids: np.ndarray,
) -> int:
    """Finds the ids of a column's values in a hash table (`lookup.build`).

    Args:
        kernels: what `load` returned.
        column: Arrow uint32 array [n]; null for a missing value.
        max_rows: M of the modulo rule, by which a missing value is value 0; or None.
        table: uint64 vector of a `lookup.Lookup`.
        slots: its home slots.
        ids: int32 [n], contiguous; written, 0 for a value without an id.

    Returns:
        How many values have no id.
    """
    return kernels.dlrm_find_ids(
        *values_and_validity(column),
        max_rows or 0,
        address(table),
        slots,
        address(ids),
    )


def count_values(
    kernels: ctypes.CDLL, column: pa.Array, max_rows: int, counters: np.ndarray
) -> None:
    """Adds 1 to counters[value % max_rows] for each of a column's values.

    Args:
        kernels: what `load` returned.
        column: Arrow uint32 array; null for a missing value, which is value 0.
        max_rows: M of the modulo rule.
        counters: int64 [max_rows], contiguous.
    """
    kernels.dlrm_count_values(*values_and_validity(column), max_rows, address(counters))


def values_and_validity(column: pa.Array) -> tuple[int, int | None, int, int]:
    """Returns (values, validity or None, first bit, n) of an Arrow uint32 array, for C."""
    validity, values = column.buffers()
    return (
        values.address + 4 * column.offset,
        None if validity is None else validity.address,
        column.offset,
        len(column),
    )


def to_records(kernels: ctypes.CDLL, fields: np.ndarray) -> np.ndarray:
    """Returns int32 records [n, 40] of contiguous int32 `fields` [40, n]."""
    records = np.empty(fields.shape[::-1], "<i4")
    kernels.dlrm_to_records(address(fields), fields.shape[1], address(records))
    return records
