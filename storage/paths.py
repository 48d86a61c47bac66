"""Paths: on this machine alone (gs://bucket/data is none), and named in every error."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from storage.errors import ReportedError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class NotLocalError(ReportedError, ValueError):
    """An address where a local path is expected; str() says what to do instead."""


def check_local(path: str | os.PathLike) -> None:
    """Checks that a path names no remote storage.

    Python would take gs://bucket/data for a folder "gs:" below the current one, and make it.

    Raises:
        NotLocalError: it begins with a scheme.
    """
    found = _SCHEME.match(os.fspath(path))
    if found is None:
        return
    scheme = found[1]
    if scheme.lower() == "file":
        advice = "write it without file://"
    else:
        advice = f"mount the {scheme}:// storage as a folder, or copy it to a local disk"
    raise NotLocalError(
        f"only local paths are supported: expected a path, found an address with {scheme}://; "
        f"{advice}"
    )


@contextlib.contextmanager
def naming_errors(path: str | os.PathLike) -> Iterator[None]:
    """A context in which an OSError without a file name, such as of a full disk, gets `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        number = error.errno or errno.EIO
        # Arrow's and NumPy's own words do not say much more, and NumPy's no number.
        reason = os.strerror(number) if error.errno else str(error)
        raise OSError(number, reason, os.fspath(path)) from error
