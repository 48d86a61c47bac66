"""Output files that appear under their names when all of them are complete and on disk."""

import contextlib
import os
import threading

import numpy as np

from dataset import metadata
from dataset.buffers import ThreadBuffers
from dataset.errors import DatasetError

#: What offset, length and address of a write past the page cache must be multiples of.
_DIRECT_UNIT = 4096
#: Bytes below which a write goes through the page cache: for each of them, a thread would wait.
_DIRECT_BYTES = 256 << 10
#: Bytes that small writes are joined to.
_GATHERED_BYTES = 1 << 20


class PartialFiles:
    """Files to be written under temporary names, all renamed at the end or all removed.

    Large writes go past the page cache where the file system lets them: they take a fifth of the
    processor time or less, do not push other files out of memory, and leave the final fsync
    nothing to wait for.
    """

    def __init__(self, paths):
        self._paths = paths
        self._handles = []
        self._direct = []

    def __enter__(self):
        try:
            for path in self._paths:
                self._handles.append(
                    os.open(f"{path}.partial", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
                )
        except OSError as error:
            self.__exit__(error)
            raise DatasetError(f"{error.filename}: cannot be written: {error.strerror}") from error
        self._direct = [_open_direct(f"{path}.partial") for path in self._paths]
        return self

    def write(self, index, data, offset):
        """Writes an array's bytes to file `index` at a byte offset. Safe from several threads.

        An array at a page boundary (`dataset.buffers`) and such an offset are written fastest.
        """
        view = memoryview(data).cast("B")
        if len(view) >= _DIRECT_BYTES and not (data.ctypes.data | offset) % _DIRECT_UNIT:
            pages = view[: len(view) // _DIRECT_UNIT * _DIRECT_UNIT]
            done = self._write_direct(index, pages, offset)
            view, offset = view[done:], offset + done
        while view:
            done = os.pwrite(self._handles[index], view, offset)
            view, offset = view[done:], offset + done

    def _write_direct(self, index, view, offset):
        """Writes whole pages; returns how many bytes of them were written."""
        if self._direct[index] is None:
            return 0
        try:
            return os.pwrite(self._direct[index], view, offset)
        except OSError:
            # Not for this file system after all; if it is anything else, pwrite above says so.
            return 0

    def commit(self):
        """Makes all files durable, then gives them their names."""
        for handle in self._handles:
            os.fsync(handle)
        for path in self._paths:
            os.replace(f"{path}.partial", path)
        for folder in {os.path.dirname(path) or "." for path in self._paths}:
            metadata.sync_folder(folder)

    def __exit__(self, *_):
        for handle in self._direct:
            if handle is not None:
                os.close(handle)
        for handle, path in zip(self._handles, self._paths):
            os.close(handle)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}.partial")
        self._handles, self._direct = [], []


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


def _open_direct(path):
    """Returns a handle whose writes pass the page cache, None where there are none."""
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT)
    except (OSError, AttributeError):
        return None
