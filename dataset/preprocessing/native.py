"""The C++ kernels of the data tools, in `ops/libdlrm_preprocessing.so` (built by `make ops`).

They are plain C, without TensorFlow. Preprocessing requires the library: `require` raises without
it. The other data tools have NumPy code for the case that `load` returns None.
"""

from __future__ import annotations

import ctypes
import functools
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from dataset.preprocessing.columns import Samples
from dataset.preprocessing.errors import LibraryError

if TYPE_CHECKING:
    import pyarrow as pa

#: Spark's executors set another path, since the driver ships the library as a separate file.
PATH = pathlib.Path(__file__).resolve().parents[2] / "ops" / "libdlrm_preprocessing.so"
#: Return value of `dlrm_preprocessing_version` in a library built from these sources.
_VERSION = 5
#: Bytes of the shortest valid line: a label, 39 tabs and LF.
_SHORTEST_LINE = 41
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64
#: Name: (result type, argument types).
_FUNCTIONS = {
    "dlrm_count_lines": (_SIZE, [_POINTER, _SIZE]),
    "dlrm_decode_lines": (_SIZE, [_POINTER, _SIZE, _SIZE, *[_POINTER] * 7]),
    "dlrm_find_ids": (
        _SIZE,
        [_POINTER, _POINTER, _SIZE, _SIZE, ctypes.c_uint32, _POINTER, _SIZE, _POINTER],
    ),
    "dlrm_count_values": (None, [_POINTER, _POINTER, _SIZE, _SIZE, ctypes.c_uint32, _POINTER]),
    "dlrm_split_records": (None, [_POINTER, *[_SIZE] * 3, *[_POINTER] * 3]),
    "dlrm_copy_ids": (None, [_POINTER, _SIZE, _SIZE]),
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
    """Returns the library; None if it is missing or was built from other sources."""
    try:
        return require()
    except LibraryError:
        return None


@functools.cache
def require() -> ctypes.CDLL:
    """Returns the library.

    Raises:
        LibraryError: it is missing, damaged, or was built from other sources.
    """
    try:
        found = ctypes.CDLL(str(PATH))
        found.dlrm_preprocessing_version.restype = ctypes.c_int32
        version = found.dlrm_preprocessing_version()
        for name, (result, arguments) in _FUNCTIONS.items() if version == _VERSION else ():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        reason = "no such file" if not PATH.exists() else str(error).replace(f"{PATH}: ", "")
        raise LibraryError.of_path(PATH, f"cannot be loaded: {reason}; run make ops") from error
    if version != _VERSION:
        problem = (
            f"built from a different version of the sources: expected {_VERSION}, found {version}"
        )
        raise LibraryError.of_path(PATH, f"{problem}; run make ops")
    return found


def address(array: np.ndarray) -> int:
    """Returns the address of an array's first element."""
    return array.ctypes.data


def decode_lines(text: bytes | memoryview) -> tuple[Samples, list[tuple[int, int, int]], int]:
    """Decodes complete lines.

    Args:
        text: bytes-like; anything after its last LF is ignored.

    Returns:
        samples: Samples, the valid lines in order.
        bad_lines: list of (line number from 0, first byte, position of the LF), the malformed ones.
        lines: the number of all lines.

    Raises:
        LibraryError: see `require`.
        MemoryError: memory ran out.
    """
    kernels = require()
    content = np.frombuffer(text, np.uint8)
    lines = kernels.dlrm_count_lines(address(content), content.size)
    capacity = min(lines, content.size // _SHORTEST_LINE)
    samples = Samples.empty(capacity)
    bad = np.empty((lines, 3), np.int64)
    bad_lines = ctypes.c_int64()
    columns = (samples.label, samples.dense, samples.dense_present, samples.values, samples.present)
    rows = kernels.dlrm_decode_lines(
        address(content),
        content.size,
        capacity,
        *(address(column) for column in columns),
        address(bad),
        ctypes.addressof(bad_lines),
    )
    if rows < 0:
        raise MemoryError(f"no memory to decode {content.size} bytes of text")
    found = [tuple(line) for line in bad[: bad_lines.value].tolist()]
    return samples[:rows], found, lines


def find_ids(
    column: pa.Array, max_rows: int | None, table: np.ndarray, slots: int, ids: np.ndarray
) -> int:
    """Finds the ids of a column's values in a hash table (`lookup.build`).

    Args:
        column: Arrow uint32 array [n]; null for a missing value.
        max_rows: M of the modulo rule, under which a missing value is value 0; or None.
        table: uint64 vector of a `lookup.Lookup`.
        slots: its home slots.
        ids: int32 [n], contiguous; filled, with 0 for a value without an id.

    Returns:
        The number of values without an id.
    """
    return require().dlrm_find_ids(
        *values_and_validity(column), max_rows or 0, address(table), slots, address(ids)
    )


def count_values(column: pa.Array, max_rows: int, counters: np.ndarray) -> None:
    """Adds 1 to counters[value % max_rows] for each of a column's values.

    Args:
        column: Arrow uint32 array; null for a missing value, which counts as value 0.
        max_rows: M of the modulo rule.
        counters: int64 [max_rows], contiguous.
    """
    require().dlrm_count_values(*values_and_validity(column), max_rows, address(counters))


def values_and_validity(column: pa.Array) -> tuple[int, int | None, int, int]:
    """Returns (values, validity or None, first bit, n) of an Arrow uint32 array, for C."""
    validity, values = column.buffers()
    return (
        values.address + 4 * column.offset,
        None if validity is None else validity.address,
        column.offset,
        len(column),
    )


def to_records(fields: np.ndarray) -> np.ndarray:
    """Returns int32 records [n, 40] of contiguous int32 `fields` [40, n]."""
    records = np.empty(fields.shape[::-1], "<i4")
    require().dlrm_to_records(address(fields), fields.shape[1], address(records))
    return records
