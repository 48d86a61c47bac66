"""Claims: a program replaces only its own files, and only one process writes them at a time.

A claim is a marker file that exists while files are being written. The process holds a lock on it,
so that a second process does not write the same files. The marker lists the files' names, so that
the next run recognises and replaces what a killed process left behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Collection, Iterable

from storage.atomic import sync_folder

#: Name of the marker that claims a whole folder.
MARKER = ".incomplete"
#: Suffix of a file's name while it is being written.
PARTIAL = ".partial"

_HEADER = b"DLRM: files whose writing is not finished; it goes on when it is started again"
#: Largest marker that is read: it lists the files of one folder.
_MAX_BYTES = 4 << 20
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class ClaimError(OSError):
    """A file cannot be claimed: `filename` names it, `strerror` gives the reason."""


class Claim:
    """A context in which this process alone writes certain files of one folder.

    The marker is removed at the end of the block. After an error it stays, unless none of the files
    that it lists exists or `is_complete` returns True.

    Args:
        folder: the folder of the files; it must exist.
        marker: name of the marker.
        is_complete: called after an error; returns whether the files are complete nevertheless.

    Attributes:
        leftovers: names listed by an earlier claim whose process was killed.

    Raises:
        ClaimError: another process holds the claim, or this program did not write the file with
            the marker's name.
        OSError: the marker cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        marker: str = MARKER,
        is_complete: Callable[[], bool] = lambda: False,
    ):
        self._folder = os.fspath(folder)
        self._path = os.path.join(self._folder, marker)
        self._is_complete = is_complete
        self._descriptor = -1
        self._names = set()
        self.leftovers = frozenset()

    def __enter__(self) -> Claim:
        self._descriptor = _locked(self._path)
        try:
            self.leftovers = frozenset(_names_in(self._descriptor, self._path))
        except BaseException:
            os.close(self._descriptor)
            raise
        self._names = set(self.leftovers)
        return self

    def __exit__(self, kind, error, traceback):
        try:
            if error is None or self._is_complete() or not any(map(self._exists, self._names)):
                # Before the lock is released: the next process must create a new marker.
                with contextlib.suppress(OSError):
                    os.unlink(self._path)
        finally:
            os.close(self._descriptor)

    def take(self, names: Iterable[str], owned: Collection[str] = ()) -> None:
        """Claims files before anything is written; removes partial files of an earlier claim.

        Args:
            names: the files' names in the folder.
            owned: existing files that this program wrote and may replace.

        Raises:
            ClaimError: a file exists that is neither owned nor a leftover of an earlier claim.
        """
        names = list(names)
        for name in names:
            self._check(name, name in owned or name in self.leftovers)
            self._check(name + PARTIAL, name in self.leftovers)
        self.record(names)
        self.remove(name + PARTIAL for name in self.leftovers)

    def record(self, names: Iterable[str]) -> None:
        """Adds the names of files or folders to the marker."""
        added = [name for name in names if name not in self._names]
        _append(self._descriptor, added)
        self._names.update(added)
        sync_folder(self._folder)

    def remove(self, names: Iterable[str]) -> None:
        """Removes the named files, where they exist and are regular files."""
        for name in names:
            path = os.path.join(self._folder, name)
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISREG(os.lstat(path).st_mode):
                    os.unlink(path)

    def _check(self, name, owned):
        check_replaceable(os.path.join(self._folder, name), lambda: owned)

    def _exists(self, name):
        path = os.path.join(self._folder, name)
        return os.path.lexists(path) or os.path.lexists(path + PARTIAL)


def make_owned_folder(folder: str | os.PathLike, marker: str) -> None:
    """Creates a folder whose content the caller will remove, or accepts one created before.

    Args:
        folder: the folder; missing parent folders are created.
        marker: name of the file that marks the folder as owned.

    Raises:
        ClaimError: the folder holds files but no marker.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, marker)
    if not os.path.isfile(path) and os.listdir(folder):
        raise ClaimError(
            errno.ENOTEMPTY,
            "contains files that this program did not write, and it would remove them: give a new "
            "folder",
            os.fspath(folder),
        )
    with open(path, "ab"):
        pass


def check_replaceable(path: str | os.PathLike, is_ours: Callable[[], bool]) -> None:
    """Checks that `path` does not exist, or is a regular file that this program wrote.

    Args:
        path: the file to write.
        is_ours: returns whether this program wrote the regular file at `path`.

    Raises:
        ClaimError: another file, a link or a folder is at `path`.
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
    """Returns whether `folder` holds a marker: of a running process, or left by a killed one."""
    return os.path.lexists(os.path.join(folder, marker))


def _locked(path):
    """Opens or creates the marker and locks it; returns its descriptor."""
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
        os.close(descriptor)  # The marker of a claim that has just ended: try again.


def _lock(descriptor, path):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ClaimError(
            errno.EBUSY,
            "another process is writing here: wait until it ends",
            os.path.dirname(path) or ".",
        ) from None
    except OSError as error:
        # Some network file systems have no locks; the names in the marker still help.
        if error.errno not in _NO_LOCKS:
            raise


def _names_in(descriptor, path):
    """Returns the names in a marker; if a power failure truncated it, the complete ones."""
    data = os.pread(descriptor, _MAX_BYTES, 0)
    header, _, rest = data.partition(b"\n")
    if data and not (header and _HEADER.startswith(header)):
        raise _not_a_marker(path)
    names = [os.fsdecode(name) for name in rest.split(b"\n")[:-1]]
    if any(os.path.basename(name) != name for name in names):
        raise _not_a_marker(path)
    return names


def _append(descriptor, names):
    """Appends names to a marker; the names already in it are never lost."""
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
