"""Files of a checkpoint: written in a stream, with their SHA-256, durable before they count."""

import concurrent.futures
import hashlib
import io
import math
import os
import pathlib
import re

import numpy as np

from dataset.buffers import pages
from dataset.direct_file import DirectFile
from storage.regular import open_regular

CHECKSUMS = "SHA256SUMS"
_READ_BYTES = 1 << 22
# Bytes after which what was written is brought to disk: a last fsync of gigabytes would take
# minutes in which nothing seems to happen.
_SYNC_BYTES = 1 << 30
# Bytes that a writer gathers, so that they can be written past the page cache: through it, each
# page would be allocated and copied to, and push out one that training reads.
_GATHERED_BYTES = 8 << 20
# Bytes from which it is worth while to digest data on another thread.
_ASIDE_BYTES = 1 << 20
# Threads that read and digest files, at most.
_MAX_THREADS = 8
# Bytes of the checksums of a checkpoint of 100,000 files.
_MAX_CHECKSUMS = 16 << 20
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\0\n][^\0\n]*)")


# Digests what a writer writes, beside it.
_DIGESTER = concurrent.futures.ThreadPoolExecutor(1, "checkpoint-digest")


class DamagedError(ValueError):
    """A checkpoint's file is missing, cut or changed; the message names it."""


class NpyWriter:
    """Writes an array of known shape as a .npy file, part by part.

    Args:
        path: where to; the file must not exist.
        shape: shape of the whole array.
        dtype: its NumPy dtype.

    Attributes:
        bytes: size of the file, once closed.
        digest: its SHA-256 in hexadecimal, once closed.
    """

    def __init__(self, path, shape, dtype):
        self._path = pathlib.Path(path)
        self._shape, self._dtype = tuple(shape), np.dtype(dtype)
        self._left = int(np.prod(self._shape, dtype=np.int64)) * self._dtype.itemsize
        self._hash = hashlib.sha256()
        self.bytes, self.digest = 0, None
        self._written = self._synced = self._filled = 0
        self._file = DirectFile(self._path, new=True)
        header = _header(self._shape, self._dtype)
        size = min(_GATHERED_BYTES, len(header) + self._left)
        self._gathered = np.frombuffer(pages(size), np.uint8, size)
        self._write(np.frombuffer(header, np.uint8))

    def _write(self, data):
        self.bytes += len(data)
        while len(data):
            here = data[: len(self._gathered) - self._filled]
            self._gathered[self._filled : self._filled + len(here)] = here
            self._filled += len(here)
            data = data[len(here) :]
            if self._filled == len(self._gathered):
                self._flush()

    def _flush(self):
        """Writes what was gathered, and digests it meanwhile."""
        data = self._gathered[: self._filled]
        digested = None
        if len(data) >= _ASIDE_BYTES:
            digested = _DIGESTER.submit(self._hash.update, data)
        else:
            self._hash.update(data)
        try:
            self._file.write(data, self._written)
        finally:
            if digested is not None:
                digested.result()
        self._written, self._filled = self._written + len(data), 0
        if self._written - self._synced >= _SYNC_BYTES:
            self._file.sync(data_only=True)
            self._synced = self._written

    def append(self, values):
        """Appends the array's next values.

        Args:
            values: any shape; their order is the file's.
        """
        values = np.ascontiguousarray(values, self._dtype)
        if values.nbytes > self._left:
            raise ValueError(f"{self._path}: {values.nbytes - self._left} bytes too many")
        self._left -= values.nbytes
        if values.size:
            self._write(values.reshape(-1).view(np.uint8))

    def close(self):
        """Brings the file to disk."""
        if self._left:
            raise ValueError(f"{self._path}: {self._left} bytes of {self._shape} are not written")
        self._flush()
        self._file.sync()
        self._file.close()
        self.digest = self._hash.hexdigest()

    def abandon(self):
        """Closes the file as it is."""
        self._file.close()


def write_text(path, text):
    """Writes a new text file and brings it to disk; returns its SHA-256."""
    data = text.encode()
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def checksum_text(digests):
    """Returns the content of `SHA256SUMS`.

    Args:
        digests: {name: SHA-256 in hexadecimal}.
    """
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def read_checksums(folder):
    """Returns {name: SHA-256} of a checkpoint.

    Raises:
        DamagedError: the file is missing or not what `checksum_text` writes.
    """
    path = pathlib.Path(folder) / CHECKSUMS
    try:
        with open_regular(path) as file:
            text = file.read(_MAX_CHECKSUMS + 1).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not ASCII: {error}"
        raise DamagedError(f"{path}: cannot be read: {reason}") from error
    if len(text) > _MAX_CHECKSUMS:
        raise DamagedError(f"{path}: expected at most {_MAX_CHECKSUMS} bytes, found more")
    digests = {}
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        match = _LINE.fullmatch(line[:-1]) if line.endswith("\n") else None
        if match is None:
            raise DamagedError(f"{path}: line {number} is no checksum: {line[:80]!r}")
        digests[match[2]] = match[1]
    if checksum_text(digests) != text:
        raise DamagedError(f"{path}: its lines are not in order, or repeat")
    return digests


def verify(folder, name, digest):
    """Reads a file of a checkpoint and compares its SHA-256.

    Raises:
        DamagedError: it is missing, unreadable or has another content.
    """
    path = pathlib.Path(folder) / name
    found = hashlib.sha256()
    try:
        with open_regular(path, buffering=0) as file:
            buffer = bytearray(_READ_BYTES)
            while count := file.readinto(buffer):
                found.update(memoryview(buffer)[:count])
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror}") from error
    if found.hexdigest() != digest:
        raise DamagedError(
            f"{path}: SHA-256 is {found.hexdigest()[:16]}..., expected {digest[:16]}... "
            f"({path.stat().st_size} bytes)"
        )


def verify_all(folder, digests):
    """Verifies several files, large ones on a few threads: one digests less than a disk reads.

    Args:
        folder: the checkpoint.
        digests: {name: SHA-256}; the first files are begun first.

    Returns:
        A list of `DamagedError`s, in the order of the names.
    """
    threads = min(_MAX_THREADS, len(os.sched_getaffinity(0)))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        aside = {
            name: pool.submit(_damage, folder, name, digest)
            for name, digest in digests.items()
            if _is_large(pathlib.Path(folder) / name)
        }
        errors = [
            aside[name].result() if name in aside else _damage(folder, name, digest)
            for name, digest in digests.items()
        ]
    return [error for error in errors if error is not None]


def _is_large(path):
    try:
        return path.stat().st_size >= _ASIDE_BYTES
    except OSError:
        return False


def _damage(folder, name, digest):
    try:
        verify(folder, name, digest)
    except DamagedError as error:
        return error
    return None


def load_array(folder, entry):
    """Maps an array of a checkpoint into memory, read-only.

    Args:
        folder: the checkpoint.
        entry: its entry in the manifest: file, shape, dtype.

    Raises:
        DamagedError: the file is missing or holds another array.
    """
    path = pathlib.Path(folder) / entry["file"]
    shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
    expected = _header(shape, dtype)
    try:
        with open_regular(path) as file:
            found = file.read(len(expected))
            size = os.fstat(file.fileno()).st_size
            if found != expected or size != len(expected) + math.prod(shape) * dtype.itemsize:
                raise DamagedError(
                    f"{path}: is no array of {list(shape)} {dtype}: {size} bytes, beginning with "
                    f"{found[:80]!r}"
                )
            if size == len(expected):  # nothing to map
                return np.empty(shape, dtype)
            return np.memmap(file, dtype, "r", offset=len(expected), shape=shape)
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror}") from error


def _header(shape, dtype):
    """Returns the bytes before a .npy file's values: what NumPy writes, for comparing with."""
    header = io.BytesIO()
    described = {
        "descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape,
    }  # fmt: skip
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()
