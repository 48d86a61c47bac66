"""Paths: only local ones are accepted (not gs://bucket/data), and every error names its path."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from storage.errors import ReportedError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class NotLocalError(ReportedError, ValueError):
    """A remote address was given where a local path is required."""


def check_local(path: str | os.PathLike) -> None:
    """Checks that a path does not name remote storage.

    Python would take gs://bucket/data for a path below a folder "gs:" and create that.

    Raises:
        NotLocalError: the path begins with a scheme such as gs://.
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
        f"{advice}",
        path=path,
        found=f"{scheme}://",
    )


@contextlib.contextmanager
def naming_errors(path: str | os.PathLike) -> Iterator[None]:
    """A context that adds `path` to an OSError without a file name, such as on a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        number = error.errno or errno.EIO
        # Arrow's messages add little to strerror; NumPy's errors have no errno.
        reason = os.strerror(number) if error.errno else str(error)
        raise OSError(number, reason, os.fspath(path)) from error
