"""Files that are there whole or not at all, durable when they have their names."""

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
    """Makes the names in `folder` durable."""
    _sync(folder, os.O_DIRECTORY)


def sync_tree(folder: str | os.PathLike) -> int:
    """Makes a folder durable that a library has written; returns the bytes of its files."""
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
    """Writes a file that must not be there yet, in a folder that gets its name later.

    Raises:
        OSError: it is there, or cannot be written; `filename` is set.
    """
    with naming_errors(path), open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(partial: str | os.PathLike, path: str | os.PathLike) -> None:
    """Gives what is complete and on disk its name, durably."""
    os.replace(partial, path)
    sync_folder(os.path.dirname(path) or ".")


@contextlib.contextmanager
def replacing_name(
    path: str | os.PathLike, partial: str | os.PathLike | None = None
) -> Iterator[str]:
    """A context that yields a temporary name next to `path`, for a library that opens by name.

    When the block ends without an error, what was written there is fsynced and becomes `path`;
    otherwise it is removed and `path` is as before.

    Args:
        path: the file.
        partial: the temporary name. By default one of the process's own, so that two processes that
            write one file do not write one temporary file.
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

    On an error `path` is as before. An OSError without a file name gets that of `path`.

    Args:
        path: the file.
        partial: as of `replacing_name`.
    """
    with naming_errors(path), replacing_name(path, partial) as name, open(name, "wb") as file:
        yield file
        file.flush()


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[str]:
    """A context that yields the path of an empty folder, which becomes `path` when the block ends.

    On an error it is removed with all that is in it. Folders above are made.

    Raises:
        FileExistsError: there is something at `path`.
    """
    path = os.path.abspath(path)
    parent, name = os.path.split(path)
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "exists already", path)
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
    """Returns `value` as standard JSON, which has no NaN and no infinity.

    Raises:
        ValueError: a number in it is not finite.
    """
    return json.dumps(value, indent=indent, allow_nan=False)


def write_json(path: str | os.PathLike, value: Any, indent: int | None = 1) -> None:
    """Writes `value` to `path` as standard JSON, whole or not at all.

    Raises:
        OSError: it cannot be written.
        ValueError: a number in it is not finite.
    """
    text = encode_json(value, indent)
    with replacing(path) as file:
        file.write((text + "\n").encode())
