"""Checksums of what is on disk, and errors of the disk that say where they happened."""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Iterator

from storage.regular import open_regular

_PIECE = 4 << 20


def checksum(path: str, offset: int = 0, length: int | None = None) -> int:
    """Returns the CRC-32 of `length` bytes (default: all) of a regular file from `offset`."""
    crc = 0
    with open_regular(path, buffering=0) as file:
        file.seek(offset)
        left = os.fstat(file.fileno()).st_size - offset if length is None else length
        while left > 0:
            piece = file.read(min(_PIECE, left))
            if not piece:
                break
            crc = zlib.crc32(piece, crc)
            left -= len(piece)
    return crc


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """A context in which an OSError without a file name, such as of a full disk, gets `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        number = error.errno or errno.EIO
        # Arrow's and NumPy's own words do not say much more, and NumPy's no number.
        reason = os.strerror(number) if error.errno else str(error)
        raise OSError(number, reason, path) from error
