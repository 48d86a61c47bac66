"""Opens regular files only: a named pipe could block forever, a device might never end."""

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
    """Returns the status of a file that a library will open by its name.

    Prefer `open_regular`: the file can change between this check and the library's open.

    Raises:
        OSError: the file does not exist or is not regular; `filename` and `strerror` are set.
    """
    return _check(os.stat(path), path)


def open_regular_fd(path: str | os.PathLike, flags: int = os.O_RDONLY) -> int:
    """Returns a descriptor of an existing regular file.

    Args:
        path: the file; a symbolic link is followed.
        flags: flags of open(2), without O_CREAT.

    Raises:
        OSError: the file cannot be opened or is not regular; `filename` and `strerror` are set.
    """
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        # O_NONBLOCK: otherwise opening a named pipe would wait for its other end.
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            _check(os.fstat(descriptor), path)
            os.set_blocking(descriptor, True)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor
    # The error of open(2) for a socket does not mention that it is a socket.
    raise _refusal(path, errno.EINVAL, "a socket")


def open_regular(path: str | os.PathLike, *, buffering: int = -1) -> BinaryIO:
    """Opens an existing regular file for reading bytes.

    Args:
        path: the file; a symbolic link is followed.
        buffering: as for `open`.

    Raises:
        OSError: the file cannot be opened or is not regular; `filename` and `strerror` are set.
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
