"""Opens regular files alone: a named pipe would block for ever, a device would never end."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

_KINDS = (
    (stat.S_ISDIR, errno.EISDIR, "a folder"),
    (stat.S_ISFIFO, errno.EINVAL, "a named pipe"),
    (stat.S_ISSOCK, errno.EINVAL, "a socket"),
    (stat.S_ISCHR, errno.EINVAL, "a character device"),
    (stat.S_ISBLK, errno.EINVAL, "a block device"),
)


def check_regular(path: str | os.PathLike) -> os.stat_result:
    """Returns the status of a file that a library opens by itself.

    Prefer `open_regular`: between this check and the library's opening the file can change.

    Raises:
        OSError: it does not exist or is no regular file; `filename` and `strerror` are set.
    """
    return _check(os.stat(path), path)


def open_regular_fd(path: str | os.PathLike, flags: int = os.O_RDONLY) -> int:
    """Returns a descriptor of an existing regular file.

    Args:
        path: the file; a symbolic link is followed.
        flags: of open(2). Nothing is created.

    Raises:
        OSError: it cannot be opened or is no regular file; `filename` and `strerror` are set.
    """
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        # O_NONBLOCK: opening a named pipe would wait for its other end.
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            _check(os.fstat(descriptor), path)
            os.set_blocking(descriptor, True)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor
    # open(2) fails on a socket with a reason that does not say so.
    raise _refusal(path, errno.EINVAL, "a socket")


def open_regular(path: str | os.PathLike, *, buffering: int = -1) -> BinaryIO:
    """Opens an existing regular file for reading bytes.

    Args:
        path: the file; a symbolic link is followed.
        buffering: as of `open`.

    Raises:
        OSError: it cannot be opened or is no regular file; `filename` and `strerror` are set.
    """
    return open(open_regular_fd(path), "rb", buffering=buffering)


def _check(status: os.stat_result, path) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        for is_kind, number, name in _KINDS:
            if is_kind(status.st_mode):
                raise _refusal(path, number, name)
        raise _refusal(path, errno.EINVAL, "a special file")
    return status


def _refusal(path, number: int, kind: str) -> OSError:
    return OSError(number, f"is {kind}: expected a regular file", os.fspath(path))
