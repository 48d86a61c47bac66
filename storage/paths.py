"""Paths that are on this machine: an address such as gs://bucket/data is none."""

from __future__ import annotations

import os
import re

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class NotLocalError(ValueError):
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
