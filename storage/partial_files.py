"""Writes several large files at any offset; they appear when all are complete and on disk."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence

import numpy as np

from storage.atomic import sync_folder
from storage.claim import PARTIAL
from storage.direct_io import DirectFile, ThreadBuffers

#: Small writes are buffered up to this size.
_BUFFER_BYTES = 1 << 20


class PartialFiles:
    """A context that writes files under temporary names: `commit` renames all, its end removes all.

    `commit` replaces existing files; `storage.claim` checks whether that is allowed.
    """

    def __init__(self, paths: Sequence[str]):
        self._paths = paths
        self._files: list[DirectFile] = []

    def __enter__(self) -> PartialFiles:
        try:
            for path in self._paths:
                self._files.append(DirectFile(f"{path}{PARTIAL}", new=True))
        except OSError as error:
            self.__exit__(error)
            raise
        return self

    def write(self, index: int, data: np.ndarray, offset: int) -> None:
        """Writes an array's bytes to file `index` at a byte offset: see `DirectFile.write`."""
        self._files[index].write(data, offset)

    def commit(self) -> None:
        """Syncs all files, then renames them to their final names."""
        for file in self._files:
            file.sync()
        for path in self._paths:
            os.replace(f"{path}{PARTIAL}", path)
        for folder in {os.path.dirname(path) or "." for path in self._paths}:
            sync_folder(folder)

    def __exit__(self, *_):
        for file, path in zip(self._files, self._paths):
            file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}{PARTIAL}")
        self._files = []


class BufferedWrites:
    """Joins each thread's small writes at successive offsets into writes past the page cache.

    Each thread calls `flush` after its last `write`.
    """

    def __init__(self, output: PartialFiles):
        self._output = output
        self._buffers = ThreadBuffers()
        self._local = threading.local()

    def write(self, index: int, data: np.ndarray, offset: int) -> None:
        """Writes an array's bytes to file `index` at a byte offset, now or at a later call."""
        if data.nbytes > _BUFFER_BYTES // 2:
            self._output.write(index, data, offset)
            return
        buffered = self._buffered()
        first, filled = buffered.get(index, (offset, 0))
        if offset != first + filled or filled + data.nbytes > _BUFFER_BYTES:
            self._flush(index)
            first, filled = offset, 0
        buffer = self._buffers.array(index, _BUFFER_BYTES, np.uint8)
        buffer[filled : filled + data.nbytes] = data.reshape(-1).view(np.uint8)
        buffered[index] = first, filled + data.nbytes

    def flush(self) -> None:
        """Writes what this thread has buffered."""
        for index in list(self._buffered()):
            self._flush(index)

    def _buffered(self) -> dict[int, tuple[int, int]]:
        """Returns {file: (offset of the first byte, bytes)} of this thread."""
        return self._local.__dict__.setdefault("buffered", {})

    def _flush(self, index: int) -> None:
        first, filled = self._buffered().pop(index, (0, 0))
        if filled:
            buffer = self._buffers.array(index, _BUFFER_BYTES, np.uint8)
            self._output.write(index, buffer[:filled], first)
