"""Files of a checkpoint: written in a stream, with their SHA-256, durable before they count."""

from __future__ import annotations

import concurrent.futures
import io
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from storage.atomic import write_new
from storage.digested_file import DigestedFile
from storage.digests import checksum_text, parse_checksums, sha256_of, sha256_of_file
from storage.errors import ReportedError
from storage.regular import open_regular

CHECKSUMS = "SHA256SUMS"
# Bytes from which it is worth while to digest a file on another thread.
_ASIDE_BYTES = 1 << 20
# Threads that read and digest files, at most.
_MAX_THREADS = 8
# Bytes of the checksums of a checkpoint of 100,000 files.
_MAX_CHECKSUMS = 16 << 20


class DamagedError(ReportedError, ValueError):
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

    def __init__(self, path: str | os.PathLike, shape: Sequence[int], dtype: Any):
        self._path = os.fspath(path)
        self._shape, self._dtype = tuple(shape), np.dtype(dtype)
        self._left = int(np.prod(self._shape, dtype=np.int64)) * self._dtype.itemsize
        header = _header(self._shape, self._dtype)
        self._file = DigestedFile(path, len(header) + self._left)
        self._file.append(np.frombuffer(header, np.uint8))
        self.bytes, self.digest = 0, ""

    def append(self, values: np.ndarray) -> None:
        """Appends the array's next values.

        Args:
            values: any shape; their order is the file's.
        """
        values = np.ascontiguousarray(values, self._dtype)
        if values.nbytes > self._left:
            raise ValueError(f"{self._path}: {values.nbytes - self._left} bytes too many")
        self._left -= values.nbytes
        if values.size:
            self._file.append(values.reshape(-1).view(np.uint8))

    def close(self) -> None:
        """Brings the file to disk."""
        if self._left:
            raise ValueError(f"{self._path}: {self._left} bytes of {self._shape} are not written")
        self._file.close()
        self.bytes, self.digest = self._file.bytes, self._file.digest

    def abandon(self) -> None:
        """Closes the file as it is."""
        self._file.abandon()


def write_text(path: str | os.PathLike, text: str) -> str:
    """Writes a new text file and brings it to disk; returns its SHA-256."""
    write_new(path, text.encode())
    return sha256_of(text)


def write_checksums(folder: str | os.PathLike, digests: Mapping[str, str]) -> None:
    """Writes the checksums, the last file of a checkpoint.

    Args:
        folder: the checkpoint's.
        digests: {name: SHA-256 in hexadecimal} of all its other files.
    """
    write_new(pathlib.Path(folder) / CHECKSUMS, checksum_text(digests).encode())


def read_checksums(folder: str | os.PathLike) -> dict[str, str]:
    """Returns {name: SHA-256} of a checkpoint.

    Raises:
        DamagedError: the file is missing or not what `storage.digests.checksum_text` writes.
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
    try:
        return parse_checksums(text)
    except ValueError as error:
        raise DamagedError(f"{path}: {error}") from error


def verify(folder: str | os.PathLike, name: str, digest: str) -> None:
    """Reads a file of a checkpoint and compares its SHA-256.

    Raises:
        DamagedError: it is missing, unreadable or has another content.
    """
    path = pathlib.Path(folder) / name
    try:
        found = sha256_of_file(path)
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror}") from error
    if found != digest:
        raise DamagedError(
            f"{path}: SHA-256 is {found[:16]}..., expected {digest[:16]}... "
            f"({path.stat().st_size} bytes)"
        )


def verify_all(folder: str | os.PathLike, digests: Mapping[str, str]) -> list[DamagedError]:
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


def _is_large(path: pathlib.Path) -> bool:
    try:
        return path.stat().st_size >= _ASIDE_BYTES
    except OSError:
        return False


def _damage(folder: str | os.PathLike, name: str, digest: str) -> DamagedError | None:
    try:
        verify(folder, name, digest)
    except DamagedError as error:
        return error
    return None


def load_array(folder: str | os.PathLike, entry: Mapping[str, Any]) -> np.ndarray:
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


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Returns the bytes before a .npy file's values: what NumPy writes, for comparing with."""
    header = io.BytesIO()
    described = {
        "descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape,
    }  # fmt: skip
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()
