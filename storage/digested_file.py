"""Writes a large file as one stream past the page cache, and computes its SHA-256 meanwhile."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os

import numpy as np

from storage.direct_io import DirectFile, page_aligned

#: Bytes between two syncs: one fsync of many gigabytes at the end would take minutes without
#: visible progress.
_SYNC_BYTES = 1 << 30
#: Size of the write buffer. Large writes can bypass the page cache; through it, each page would
#: be allocated, copied, and evict one that training reads.
_BUFFER_BYTES = 8 << 20
#: From this size on, digesting on another thread pays off.
_THREADED_BYTES = 1 << 20

# Digests the buffer while it is being written.
_DIGESTER = concurrent.futures.ThreadPoolExecutor(1, "digest")


class DigestedFile:
    """A new file, written from beginning to end.

    Args:
        path: the file; it must not exist.
        size: its size in bytes.

    Attributes:
        bytes: number of bytes appended.
        digest: SHA-256 of these bytes in hexadecimal, after `close`.

    Raises:
        OSError: the file cannot be opened; `filename` is set.
    """

    def __init__(self, path: str | os.PathLike, size: int):
        self._hash = hashlib.sha256()
        self.bytes, self.digest = 0, ""
        self._written = self._synced = self._filled = 0
        self._file = DirectFile(path, new=True)
        size = min(_BUFFER_BYTES, size)
        self._buffer = np.frombuffer(page_aligned(size), np.uint8, size)

    def append(self, data: np.ndarray) -> None:
        """Appends bytes: uint8 [n]."""
        self.bytes += len(data)
        while len(data):
            here = data[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(here)] = here
            self._filled += len(here)
            data = data[len(here) :]
            if self._filled == len(self._buffer):
                self._flush()

    def _flush(self) -> None:
        """Writes and digests the buffer."""
        data = self._buffer[: self._filled]
        digested = None
        if len(data) >= _THREADED_BYTES:
            digested = _DIGESTER.submit(self._hash.update, data.data)
        else:
            self._hash.update(data.data)
        try:
            self._file.write(data, self._written)
        finally:
            if digested is not None:
                digested.result()
        self._written, self._filled = self._written + len(data), 0
        if self._written - self._synced >= _SYNC_BYTES:
            self._file.sync(data_only=True)
            self._synced = self._written

    def close(self) -> None:
        """Writes the rest, syncs the file and sets `digest`."""
        self._flush()
        self._file.sync()
        self._file.close()
        self.digest = self._hash.hexdigest()

    def abandon(self) -> None:
        """Closes the incomplete file. May be called more than once."""
        self._file.close()
