"""Raw Criteo binaries: records of 40 little-endian int32: label, 13 dense counts, 26 ids."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Sequence

import numpy as np

from dataset.preprocessing.columns import FIELDS
from dataset.preprocessing.errors import PreprocessError
from storage.direct_io import write_all
from storage.paths import naming_errors
from storage.regular import open_regular_fd

RECORD_BYTES = 4 * FIELDS


def new_fields(
    label: np.ndarray, dense: Sequence[np.ndarray] | np.ndarray, negatives: str
) -> np.ndarray:
    """Returns int32 [40, n], field by field: label, dense counts, and 0 for the ids.

    Args:
        label: [n].
        dense: 13 columns [n]; missing counts are 0.
        negatives: "zero" (the published transform) or "keep".
    """
    fields = np.zeros((FIELDS, len(label)), "<i4")
    fields[0] = label
    for i, column in enumerate(dense):
        fields[1 + i] = np.maximum(column, 0) if negatives == "zero" else column
    return fields


def allocate(path: str, records: int) -> None:
    """Makes a file of exactly `records` records; an existing file keeps its content.

    Raises:
        PreprocessError: the disk is full.
    """
    size = records * RECORD_BYTES
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.ftruncate(descriptor, size)
        if size:
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            problem = f"cannot allocate {size} bytes: {error.strerror}"
            raise PreprocessError.of_path(path, problem) from error
    finally:
        os.close(descriptor)


class RegionWriter:
    """Writes records in order into a region of a file; a context manager.

    Attributes:
        crc32: checksum of the bytes written so far.
    """

    def __init__(self, path: str, record: int):
        """Opens `path` for writing, starting at record `record`."""
        self._descriptor = open_regular_fd(path, os.O_RDWR)
        self._path = path
        self._offset = record * RECORD_BYTES
        self.crc32 = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._descriptor)

    def read(self, records: int) -> np.ndarray:
        """Returns the next `records` records on disk as int32 [n, 40]; does not advance."""
        with naming_errors(self._path):
            data = os.pread(self._descriptor, records * RECORD_BYTES, self._offset)
        if len(data) != records * RECORD_BYTES:
            expected = f"{records * RECORD_BYTES} bytes at byte {self._offset}"
            problem = f"truncated during the run: expected {expected}, found {len(data)}"
            raise PreprocessError.of_path(self._path, problem)
        return np.frombuffer(data, "<i4").reshape(records, FIELDS).copy()

    def write(self, records: np.ndarray) -> None:
        """Writes int32 records [n, 40] and advances."""
        data = np.ascontiguousarray(records).data.cast("B")
        self.crc32 = zlib.crc32(data, self.crc32)
        with naming_errors(self._path):
            write_all(self._descriptor, data, self._offset)
        self._offset += len(data)

    def sync(self) -> None:
        """Waits until everything written is on disk."""
        with naming_errors(self._path):
            os.fsync(self._descriptor)
