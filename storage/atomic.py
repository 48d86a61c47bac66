"""Atomic writes: a file or folder appears under its name complete and on disk, or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any, BinaryIO

from storage.paths import naming_errors


def sync_folder(folder: str | os.PathLike) -> None:
    """Brings the names in `folder` to disk."""
    _sync(folder, os.O_DIRECTORY)


def sync_tree(folder: str | os.PathLike) -> int:
    """Brings a folder that a library has written to disk; returns the bytes of its files."""
    size = 0
    for path, _, names in os.walk(folder):
        for name in names:
            size += _sync(os.path.join(path, name))
        sync_folder(path)
    return size


def _sync(path: str | os.PathLike, flags: int = 0) -> int:
    """Brings a file or a folder to disk; returns its size in bytes."""
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def write_new(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file that must not exist yet, in a folder that is renamed later.

    Raises:
        OSError: the file exists or cannot be written; `filename` is set.
    """
    with naming_errors(path), open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(partial: str | os.PathLike, path: str | os.PathLike) -> None:
    """Renames a complete, synced file or folder to `path`, and syncs the parent folder."""
    os.replace(partial, path)
    sync_folder(os.path.dirname(path) or ".")


@contextlib.contextmanager
def replacing_name(
    path: str | os.PathLike, partial: str | os.PathLike | None = None
) -> Iterator[str]:
    """A context that yields a temporary name next to `path`, for a library that opens by name.

    When the block ends without an error, the temporary file is synced and renamed to `path`. After
    an error it is removed and `path` is unchanged.

    Args:
        path: the file.
        partial: the temporary name. The default contains the process id, so that two processes
            that write the same file use different temporary files.
    """
    path = os.fspath(path)
    partial = f"{path}.{os.getpid()}.partial" if partial is None else os.fspath(partial)
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise
    sync_folder(os.path.dirname(path) or ".")


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike, partial: str | os.PathLike | None = None
) -> Iterator[BinaryIO]:
    """A context that yields a binary file, which becomes `path` when the block ends.

    After an error `path` is unchanged. An OSError without a file name gets `path` as its name.

    Args:
        path: the file.
        partial: as for `replacing_name`.
    """
    with naming_errors(path), replacing_name(path, partial) as name, open(name, "wb") as file:
        yield file
        file.flush()


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[str]:
    """A context that yields the path of an empty folder, which becomes `path` when the block ends.

    After an error the folder and its content are removed. Missing parent folders are created.

    Raises:
        FileExistsError: `path` exists.
    """
    path = os.path.abspath(path)
    parent, name = os.path.split(path)
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "already exists", path)
    os.makedirs(parent, exist_ok=True)
    partial = os.path.join(parent, f".{name}.{os.getpid()}.partial")
    os.mkdir(partial)
    try:
        yield partial
        os.rename(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(parent)


def encode_json(value: Any, indent: int | None = 1) -> str:
    """Returns `value` as standard JSON, which has neither NaN nor infinity.

    Raises:
        ValueError: `value` contains a number that is not finite.
    """
    return json.dumps(value, indent=indent, allow_nan=False)


def write_json(path: str | os.PathLike, value: Any, indent: int | None = 1) -> None:
    """Writes `value` to `path` as standard JSON, atomically.

    Raises:
        OSError: the file cannot be written.
        ValueError: `value` contains a number that is not finite.
    """
    text = encode_json(value, indent)
    with replacing(path) as file:
        file.write((text + "\n").encode())
