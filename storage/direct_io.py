"""Large writes past the page cache, and the page-aligned memory that they need."""

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

#: Alignment in bytes of offset, length and address of a write past the page cache.
_UNIT = 4096
#: Smaller writes go through the page cache: each direct write makes its thread wait.
_LARGE = 256 << 10


class DirectFile:
    """A file whose large writes bypass the page cache where its file system allows that.

    Direct writes take at most a fifth of the processor time, do not evict other files from memory,
    and leave little to do for the final fsync.

    Args:
        path: the file; an existing one is truncated.
        new: fail if the file exists.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike, *, new: bool = False):
        self._path = os.fspath(path)
        flags = os.O_WRONLY | os.O_CREAT | (os.O_EXCL if new else os.O_TRUNC)
        self._handle = os.open(path, flags, 0o666)
        self._direct = _open_direct(path)

    def write(self, data: np.ndarray, offset: int) -> None:
        """Writes an array's bytes at a byte offset. Several threads may call it.

        Fastest if the array (`ThreadBuffers`) and the offset are page-aligned.

        Args:
            data: contiguous array of any shape and dtype.
            offset: byte offset of its first byte.

        Raises:
            OSError: the data cannot be written; `filename` is set.
        """
        view = data.data.cast("B")
        if len(view) >= _LARGE and not (data.ctypes.data | offset) % _UNIT:
            done = self._write_direct(view[: len(view) // _UNIT * _UNIT], offset)
            view, offset = view[done:], offset + done
        with naming_errors(self._path):
            write_all(self._handle, view, offset)

    def _write_direct(self, view: memoryview, offset: int) -> int:
        """Writes complete pages; returns the number of bytes written."""
        if self._direct < 0:
            return 0
        try:
            return os.pwrite(self._direct, view, offset)
        except OSError:
            # The file system may not support it after all; `write_all` raises any other error.
            return 0

    def sync(self, *, data_only: bool = False) -> None:
        """Syncs the file; with `data_only`, without its timestamps."""
        with naming_errors(self._path):
            (os.fdatasync if data_only else os.fsync)(self._handle)

    def close(self) -> None:
        """Closes the file. May be called more than once."""
        for handle in (self._direct, self._handle):
            if handle >= 0:
                os.close(handle)
        self._direct = self._handle = -1


def _open_direct(path: str | os.PathLike) -> int:
    """Returns a descriptor whose writes bypass the page cache, -1 if that is not possible."""
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT)
    except (OSError, AttributeError):
        return -1


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Writes all of `data` at a byte offset: pwrite(2) alone may write only a part."""
    while data:
        done = os.pwrite(descriptor, data, offset)
        data, offset = data[done:], offset + done


class ThreadBuffers:
    """Reusable arrays by thread and key, page-aligned for `DirectFile`.

    New arrays for every chunk would cost more in page faults than reading does.
    """

    def __init__(self):
        self._known = threading.local()

    def array(self, key: Hashable, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        """Returns this thread's array for `key`, with its previous content.

        Args:
            key: names the array.
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
    """Returns new private memory of at least `size` bytes, in huge pages if available."""
    memory = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
