"""The checksum file of a checkpoint, and the check of its files against it."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
from collections.abc import Mapping

from storage.atomic import write_new
from storage.digests import checksum_text, parse_checksums, sha256_of, sha256_of_file
from storage.regular import open_regular
from training.checkpoint.errors import DamagedError

CHECKSUMS = "SHA256SUMS"
# Files of at least this many bytes are hashed on a thread of the pool.
_POOLED_BYTES = 1 << 20
_MAX_THREADS = 8
# Size of the checksum file of about 100,000 files.
_MAX_CHECKSUMS = 16 << 20


def write_text(path: str | os.PathLike, text: str) -> str:
    """Writes a new text file to disk and returns its SHA-256."""
    write_new(path, text.encode())
    return sha256_of(text)


def write_checksums(folder: str | os.PathLike, digests: Mapping[str, str]) -> None:
    """Writes the checksum file, the last file of a checkpoint.

    Args:
        folder: the checkpoint.
        digests: {name: SHA-256 in hexadecimal} of all its other files.
    """
    write_new(pathlib.Path(folder) / CHECKSUMS, checksum_text(digests).encode())


def read_checksums(folder: str | os.PathLike) -> dict[str, str]:
    """Returns {name: SHA-256} of a checkpoint.

    Raises:
        DamagedError: the file is missing or not in the format of `storage.digests.checksum_text`.
    """
    path = pathlib.Path(folder) / CHECKSUMS
    try:
        with open_regular(path) as file:
            text = file.read(_MAX_CHECKSUMS + 1).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not ASCII: {error}"
        raise DamagedError.of_path(path, f"cannot be read: {reason}") from error
    if len(text) > _MAX_CHECKSUMS:
        problem = f"expected at most {_MAX_CHECKSUMS} bytes, found more"
        raise DamagedError.of_path(path, problem, bound=_MAX_CHECKSUMS)
    try:
        return parse_checksums(text)
    except ValueError as error:
        raise DamagedError.of_path(path, str(error)) from error


def verify_file(folder: str | os.PathLike, name: str, digest: str) -> None:
    """Reads a file of a checkpoint and compares its SHA-256.

    Raises:
        DamagedError: the file is missing, unreadable or has other content.
    """
    path = pathlib.Path(folder) / name
    try:
        found = sha256_of_file(path)
    except OSError as error:
        raise DamagedError.of_path(path, str(error.strerror)) from error
    if found != digest:
        problem = f"expected SHA-256 {digest[:16]}..., found {found[:16]}..."
        raise DamagedError.of_path(path, problem, expected=digest, found=found)


def verify_files(folder: str | os.PathLike, digests: Mapping[str, str]) -> list[DamagedError]:
    """Verifies several files; large ones on a pool, since a disk outpaces one hashing thread.

    Args:
        folder: the checkpoint.
        digests: {name: SHA-256}; files are started in this order.

    Returns:
        The errors, in the order of the names.
    """
    threads = min(_MAX_THREADS, len(os.sched_getaffinity(0)))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        pooled = {
            name: pool.submit(_error_of, folder, name, digest)
            for name, digest in digests.items()
            if _is_large(pathlib.Path(folder) / name)
        }
        errors = [
            pooled[name].result() if name in pooled else _error_of(folder, name, digest)
            for name, digest in digests.items()
        ]
    return [error for error in errors if error is not None]


def _is_large(path: pathlib.Path) -> bool:
    try:
        return path.stat().st_size >= _POOLED_BYTES
    except OSError:
        return False


def _error_of(folder: str | os.PathLike, name: str, digest: str) -> DamagedError | None:
    try:
        verify_file(folder, name, digest)
    except DamagedError as error:
        return error
    return None
