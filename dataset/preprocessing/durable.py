"""Files that are there whole or not at all, and checksums of what is there."""

from __future__ import annotations

import contextlib
import json
import os
import zlib

_PIECE = 4 << 20


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary name; on success what was written there is fsynced and renamed to `path`.

    On an error the temporary file is removed, and what was at `path` stays.
    """
    partial = f"{path}.{os.getpid()}.partial"
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)
        raise
    sync(os.path.dirname(path) or ".")


def sync(path):
    """Waits until the file or folder `path` is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path, value):
    """Writes `value` as JSON to `path`, whole or not at all."""
    with replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")


def checksum(path, offset=0, length=None):
    """Returns the CRC-32 of `length` bytes (default: all) of a file from `offset`."""
    crc = 0
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        left = os.fstat(file.fileno()).st_size - offset if length is None else length
        while left > 0:
            piece = file.read(min(_PIECE, left))
            if not piece:
                break
            crc = zlib.crc32(piece, crc)
            left -= len(piece)
    return crc
