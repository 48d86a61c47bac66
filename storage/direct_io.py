"""Large writes past the page cache, and the page-aligned memory that they are made from."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import threading
from collections.abc import Hashable
from typing import Any

import numpy as np

from storage.paths import naming_errors

#: What offset, length and address of a write past the page cache must be multiples of.
_UNIT = 4096
#: Bytes below which a write goes through the page cache: for each of them, a thread would wait.
_LARGE = 256 << 10


class DirectFile:
    """A file to write, past the page cache where its file system lets large writes do so.

    They take a fifth of the processor time or less, do not push other files out of memory, and
    leave the final fsync nothing to wait for.
    """

    def __init__(self, path: str | os.PathLike, *, new: bool = False):
        """Opens it, empty.

        Args:
            path: where it is.
            new: it must not be there yet.

        Raises:
            OSError: it cannot be opened.
        """
        self._path = os.fspath(path)
        flags = os.O_WRONLY | os.O_CREAT | (os.O_EXCL if new else os.O_TRUNC)
        self._handle = os.open(path, flags, 0o666)
        self._direct = _open_direct(path)

    def write(self, data: np.ndarray, offset: int) -> None:
        """Writes an array's bytes at a byte offset. Safe from several threads.

        An array at a page boundary (`ThreadBuffers`) and such an offset are written fastest.

        Args:
            data: contiguous, of any shape and dtype.
            offset: where its first byte goes.

        Raises:
            OSError: it cannot be written; `filename` is set.
        """
        view = data.data.cast("B")
        if len(view) >= _LARGE and not (data.ctypes.data | offset) % _UNIT:
            done = self._write_direct(view[: len(view) // _UNIT * _UNIT], offset)
            view, offset = view[done:], offset + done
        with naming_errors(self._path):
            write_all(self._handle, view, offset)

    def _write_direct(self, view: memoryview, offset: int) -> int:
        """Writes whole pages; returns how many bytes of them were written."""
        if self._direct < 0:
            return 0
        try:
            return os.pwrite(self._direct, view, offset)
        except OSError:
            # Not for this file system after all; if it is anything else, `write_all` says so.
            return 0

    def sync(self, *, data_only: bool = False) -> None:
        """Brings to disk what was written; with `data_only` not the times of the file."""
        with naming_errors(self._path):
            (os.fdatasync if data_only else os.fsync)(self._handle)

    def close(self) -> None:
        """Closes it, once or more."""
        for handle in (self._direct, self._handle):
            if handle >= 0:
                os.close(handle)
        self._direct = self._handle = -1


def _open_direct(path: str | os.PathLike) -> int:
    """Returns a handle whose writes pass the page cache, -1 where there are none."""
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT)
    except (OSError, AttributeError):
        return -1


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Writes all of `data`, bytes, at a byte offset: pwrite(2) may write a part alone."""
    while data:
        done = os.pwrite(descriptor, data, offset)
        data, offset = data[done:], offset + done


class ThreadBuffers:
    """Arrays by key, a thread's own: the same memory each time a thread asks for the same key.

    New arrays for every chunk would cost more in page faults than reading does. Page boundaries
    let `DirectFile` write them past the page cache.
    """

    def __init__(self):
        self._known = threading.local()

    def array(self, key: Hashable, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        """Returns an array of `shape`, holding whatever this thread left in it.

        Args:
            key: what it is for.
            shape: its dimensions.
            dtype: its dtype.
        """
        dtype = np.dtype(dtype)
        count = math.prod(shape) if isinstance(shape, tuple) else int(shape)
        known = self._known.__dict__.setdefault("arrays", {})
        memory = known.get(key)
        if memory is None or len(memory) < count * dtype.itemsize:
            memory = known[key] = page_aligned(count * dtype.itemsize)
        return np.frombuffer(memory, dtype, count).reshape(shape)


def page_aligned(size: int) -> mmap.mmap:
    """Returns new private memory of at least `size` bytes, in huge pages where there are some."""
    memory = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
