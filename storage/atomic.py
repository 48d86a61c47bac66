"""Files that are there whole or not at all, durable when they have their names."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any, BinaryIO


def sync_folder(folder: str | os.PathLike) -> None:
    """Makes the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing_name(path: str | os.PathLike) -> Iterator[str]:
    """A context that yields a temporary name next to `path`, for a library that opens by name.

    When the block ends without an error, what was written there is fsynced and becomes `path`;
    otherwise it is removed and `path` is as before.
    """
    path = os.fspath(path)
    # The process's own, so that two processes that write one file do not write one temporary file.
    partial = f"{path}.{os.getpid()}.partial"
    try:
        yield partial
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise
    sync_folder(os.path.dirname(path) or ".")


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A context that yields a binary file, which becomes `path` when the block ends.

    On an error `path` is as before. An OSError without a file name gets that of `path`.
    """
    try:
        with replacing_name(path) as partial, open(partial, "wb") as file:
            yield file
            file.flush()
    except OSError as error:
        # Such as a full disk: write(2) does not say where.
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


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
