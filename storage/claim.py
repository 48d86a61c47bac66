"""Claims of files that are about to be written: nobody else's file is replaced, nor written twice.

A claim is a marker file that exists while files are being written. It is locked, so a second
process does not write the same files, and names them, so what a killed process leaves is
recognised and replaced when it is started again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Collection, Iterable

from storage.atomic import sync_folder

#: The marker of a claim of a whole folder.
MARKER = ".incomplete"
#: Added to a file's name while it is being written.
PARTIAL = ".partial"

_HEADER = b"DLRM: files whose writing is not finished; it goes on when it is started again"
#: A marker names files of one folder: a longer one is none.
_MAX_BYTES = 4 << 20
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class ClaimError(OSError):
    """Files that cannot be claimed: `filename` and `strerror` say which and why."""


class Claim:
    """Files of one folder that this process writes: a context.

    On success the marker is removed. On an error it is removed where nothing that it names is
    left, or where `whole` says that the files are as complete as they were before.

    Args:
        folder: where the files are; it exists.
        marker: name of the marker.
        whole: function () -> whether the files, after an error, are complete.

    Attributes:
        left: names that an earlier claim, which did not end, has left.

    Raises:
        ClaimError: another process holds the claim, or the marker is somebody else's file.
        OSError: the marker cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        marker: str = MARKER,
        whole: Callable[[], bool] = lambda: False,
    ):
        self._folder = os.fspath(folder)
        self._path = os.path.join(self._folder, marker)
        self._whole = whole
        self._descriptor = -1
        self._names = set()
        self.left = frozenset()

    def __enter__(self) -> Claim:
        self._descriptor = _locked(self._path)
        try:
            self.left = frozenset(_names_in(self._descriptor, self._path))
        except BaseException:
            os.close(self._descriptor)
            raise
        self._names = set(self.left)
        return self

    def __exit__(self, kind, error, traceback):
        try:
            if error is None or self._whole() or not any(map(self._is_there, self._names)):
                # Removed before the lock is released: who waits for it must find a new marker.
                with contextlib.suppress(OSError):
                    os.unlink(self._path)
        finally:
            os.close(self._descriptor)

    def take(self, names: Iterable[str], owned: Collection[str] = ()) -> None:
        """Claims files, before anything is written, and removes what is half written of them.

        Args:
            names: the files' names in the folder.
            owned: those that are there, were written by this program and may be replaced.

        Raises:
            ClaimError: one of them is there and is neither owned nor left by an earlier claim.
        """
        names = list(names)
        for name in names:
            self._check(name, name in owned or name in self.left)
            self._check(name + PARTIAL, name in self.left)
        self.record(names)
        self.remove(name + PARTIAL for name in self.left)

    def record(self, names: Iterable[str]) -> None:
        """Names files or folders that are complete, while others of the same write are not yet."""
        added = [name for name in names if name not in self._names]
        _append(self._descriptor, added)
        self._names.update(added)
        sync_folder(self._folder)

    def remove(self, names: Iterable[str]) -> None:
        """Removes those of the named files that are there, as regular files."""
        for name in names:
            path = os.path.join(self._folder, name)
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISREG(os.lstat(path).st_mode):
                    os.unlink(path)

    def _check(self, name, ours):
        path = os.path.join(self._folder, name)
        check_replaceable(path, lambda: ours)

    def _is_there(self, name):
        path = os.path.join(self._folder, name)
        return os.path.lexists(path) or os.path.lexists(path + PARTIAL)


def own_folder(folder: str | os.PathLike, marker: str) -> None:
    """Makes a folder for what will be removed again, or finds one that was made so before.

    Args:
        folder: the folder; folders above it are made.
        marker: name of a file in it that says so.

    Raises:
        ClaimError: it holds something, and no marker.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, marker)
    if not os.path.isfile(path) and os.listdir(folder):
        raise ClaimError(
            errno.ENOTEMPTY,
            "holds files that this program did not write, and would remove: name a new folder",
            os.fspath(folder),
        )
    with open(path, "ab"):
        pass


def check_replaceable(path: str | os.PathLike, is_ours: Callable[[], bool]) -> None:
    """Checks that nothing is at `path`, or a regular file that this program wrote.

    Args:
        path: what is about to be written.
        is_ours: says whether the regular file at `path` was written by this program.

    Raises:
        ClaimError: something else is there.
    """
    path = os.fspath(path)
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(mode):
        what = "is a symbolic link"
    elif stat.S_ISDIR(mode):
        what = "is a folder"
    elif not stat.S_ISREG(mode):
        what = "is a special file"
    elif is_ours():
        return
    else:
        what = "exists, and this program did not write it"
    raise ClaimError(
        errno.EEXIST, f"{what}: it is not replaced; move it away or choose another name", path
    )


def is_unfinished(folder: str | os.PathLike, marker: str = MARKER) -> bool:
    """Returns whether a claim of files in `folder` is held, or was left by a killed process."""
    return os.path.lexists(os.path.join(folder, marker))


def _locked(path):
    """Returns a descriptor of the marker, made where there is none, with its lock held."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise _not_a_marker(path) from None
            raise
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _not_a_marker(path)
            _lock(descriptor, path)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # of a claim that ended meanwhile


def _lock(descriptor, path):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ClaimError(
            errno.EBUSY,
            "another process is writing here: wait until it has ended",
            os.path.dirname(path) or ".",
        ) from None
    except OSError as error:
        # Some network file systems have no locks: the names in the marker are of use all the same.
        if error.errno not in _NO_LOCKS:
            raise


def _names_in(descriptor, path):
    """Returns the names in a marker; of one that a power failure has cut, those that are whole."""
    data = os.pread(descriptor, _MAX_BYTES, 0)
    header, _, rest = data.partition(b"\n")
    if data and not (header and _HEADER.startswith(header)):
        raise _not_a_marker(path)
    names = [os.fsdecode(name) for name in rest.split(b"\n")[:-1]]
    if any(os.path.basename(name) != name for name in names):
        raise _not_a_marker(path)
    return names


def _append(descriptor, names):
    """Adds names to a marker; those that are in it stay in it whatever happens meanwhile."""
    data = os.pread(descriptor, _MAX_BYTES, 0)
    end = data.rfind(b"\n") + 1
    lines = [] if end else [_HEADER]
    added = b"".join(line + b"\n" for line in [*lines, *map(os.fsencode, names)])
    while added:
        done = os.pwrite(descriptor, added, end)
        added, end = added[done:], end + done
    os.ftruncate(descriptor, end)
    os.fsync(descriptor)


def _not_a_marker(path):
    return ClaimError(
        errno.EEXIST,
        "exists, and this program did not write it: it is not replaced; move it away",
        path,
    )
