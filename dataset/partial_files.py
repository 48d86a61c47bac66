"""Output files that appear under their names when all of them are complete and on disk."""

import contextlib
import os
import threading

import numpy as np

from dataset.buffers import ThreadBuffers
from dataset.direct_file import DirectFile
from dataset.errors import DatasetError
from storage import atomic
from storage.claim import PARTIAL

#: Bytes that small writes are joined to.
_GATHERED_BYTES = 1 << 20


class PartialFiles:
    """Files to be written under temporary names, all renamed at the end or all removed.

    What is at the paths is replaced: `storage.claim` says whether it may be.
    """

    def __init__(self, paths):
        self._paths = paths
        self._files = []

    def __enter__(self):
        try:
            for path in self._paths:
                self._files.append(DirectFile(f"{path}{PARTIAL}", new=True))
        except OSError as error:
            self.__exit__(error)
            raise DatasetError(f"{error.filename}: cannot be written: {error.strerror}") from error
        return self

    def write(self, index, data, offset):
        """Writes an array's bytes to file `index` at a byte offset: see `DirectFile.write`."""
        self._files[index].write(data, offset)

    def commit(self):
        """Makes all files durable, then gives them their names."""
        for file in self._files:
            file.sync()
        for path in self._paths:
            os.replace(f"{path}{PARTIAL}", path)
        for folder in {os.path.dirname(path) or "." for path in self._paths}:
            atomic.sync_folder(folder)

    def __exit__(self, *_):
        for file, path in zip(self._files, self._paths):
            file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}{PARTIAL}")
        self._files = []


class GatheredWrites:
    """Joins a thread's small writes at successive offsets to ones that pass the page cache.

    Each thread calls `flush` after its last `write`.
    """

    def __init__(self, output):
        """Takes the `PartialFiles` to write to."""
        self._output = output
        self._buffers = ThreadBuffers()
        self._local = threading.local()

    def write(self, index, data, offset):
        """Writes an array's bytes to file `index` at a byte offset, now or with those after it."""
        if data.nbytes > _GATHERED_BYTES // 2:
            self._output.write(index, data, offset)
            return
        kept = self._kept()
        first, filled = kept.get(index, (offset, 0))
        if offset != first + filled or filled + data.nbytes > _GATHERED_BYTES:
            self._flush(index)
            first, filled = offset, 0
        buffer = self._buffers.array(index, _GATHERED_BYTES, np.uint8)
        buffer[filled : filled + data.nbytes] = data.reshape(-1).view(np.uint8)
        kept[index] = first, filled + data.nbytes

    def flush(self):
        """Writes what this thread has kept back."""
        for index in list(self._kept()):
            self._flush(index)

    def _kept(self):
        """Returns {file: (offset of the first byte, bytes)} of this thread."""
        return self._local.__dict__.setdefault("kept", {})

    def _flush(self, index):
        first, filled = self._kept().pop(index, (0, 0))
        if filled:
            buffer = self._buffers.array(index, _GATHERED_BYTES, np.uint8)
            self._output.write(index, buffer[:filled], first)
