"""A large file that is written in one stream, past the page cache, with its SHA-256."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os

import numpy as np

from storage.direct_io import DirectFile, page_aligned

#: Bytes after which what was written is brought to disk: a last fsync of gigabytes would take
#: minutes in which nothing seems to happen.
_SYNC_BYTES = 1 << 30
#: Bytes that are gathered, so that they can be written past the page cache: through it, each page
#: would be allocated and copied to, and push out one that training reads.
_GATHERED_BYTES = 8 << 20
#: Bytes from which it is worth while to digest data on another thread.
_ASIDE_BYTES = 1 << 20

# Digests what is written, beside it.
_DIGESTER = concurrent.futures.ThreadPoolExecutor(1, "digest")


class DigestedFile:
    """A new file of known size, written from its begin to its end.

    Args:
        path: where to; the file must not exist.
        size: its bytes, at least.

    Attributes:
        bytes: how many were appended.
        digest: their SHA-256 in hexadecimal, once closed.

    Raises:
        OSError: it cannot be opened; `filename` is set.
    """

    def __init__(self, path: str | os.PathLike, size: int):
        self._hash = hashlib.sha256()
        self.bytes, self.digest = 0, ""
        self._written = self._synced = self._filled = 0
        self._file = DirectFile(path, new=True)
        size = min(_GATHERED_BYTES, size)
        self._gathered = np.frombuffer(page_aligned(size), np.uint8, size)

    def append(self, data: np.ndarray) -> None:
        """Appends bytes: uint8 [n]."""
        self.bytes += len(data)
        while len(data):
            here = data[: len(self._gathered) - self._filled]
            self._gathered[self._filled : self._filled + len(here)] = here
            self._filled += len(here)
            data = data[len(here) :]
            if self._filled == len(self._gathered):
                self._flush()

    def _flush(self) -> None:
        """Writes what was gathered, and digests it meanwhile."""
        data = self._gathered[: self._filled]
        digested = None
        if len(data) >= _ASIDE_BYTES:
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
        """Brings the file to disk."""
        self._flush()
        self._file.sync()
        self._file.close()
        self.digest = self._hash.hexdigest()

    def abandon(self) -> None:
        """Closes the file as it is, once or more."""
        self._file.close()
