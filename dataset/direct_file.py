"""A file whose large writes go past the page cache."""

import contextlib
import os

#: What offset, length and address of a write past the page cache must be multiples of.
_UNIT = 4096
#: Bytes below which a write goes through the page cache: for each of them, a thread would wait.
_LARGE = 256 << 10


class DirectFile:
    """A file to write, past the page cache where its file system lets large writes do so.

    They take a fifth of the processor time or less, do not push other files out of memory, and
    leave the final fsync nothing to wait for.
    """

    def __init__(self, path, *, new=False):
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

    def write(self, data, offset):
        """Writes an array's bytes at a byte offset. Safe from several threads.

        An array at a page boundary (`dataset.buffers`) and such an offset are written fastest.
        """
        view = memoryview(data).cast("B")
        if len(view) >= _LARGE and not (data.ctypes.data | offset) % _UNIT:
            done = self._write_direct(view[: len(view) // _UNIT * _UNIT], offset)
            view, offset = view[done:], offset + done
        while view:
            with self._named_errors():
                done = os.pwrite(self._handle, view, offset)
            view, offset = view[done:], offset + done

    @contextlib.contextmanager
    def _named_errors(self):
        """A context whose errors name the file: a full disk does not say which it is."""
        try:
            yield
        except OSError as error:
            error.filename = self._path
            raise

    def _write_direct(self, view, offset):
        """Writes whole pages; returns how many bytes of them were written."""
        if self._direct < 0:
            return 0
        try:
            return os.pwrite(self._direct, view, offset)
        except OSError:
            # Not for this file system after all; if it is anything else, pwrite above says so.
            return 0

    def sync(self, *, data_only=False):
        """Brings to disk what was written; with `data_only` not the times of the file."""
        with self._named_errors():
            (os.fdatasync if data_only else os.fsync)(self._handle)

    def close(self):
        """Closes it, once or more."""
        for handle in (self._direct, self._handle):
            if handle >= 0:
                os.close(handle)
        self._direct = self._handle = -1


def _open_direct(path):
    """Returns a handle whose writes pass the page cache, -1 where there are none."""
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT)
    except (OSError, AttributeError):
        return -1
