"""Recognizes a checkpoint's own files; foreign files in its folder are never removed."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
from collections.abc import Container

from training.checkpoint.checksums import CHECKSUMS, read_checksums
from training.checkpoint.errors import DamagedError

# Files of a checkpoint, complete or not. NFS keeps a removed file that is open as .nfs...
_OURS = re.compile(
    r"table_\d+(\.\w+)?\.rank_\d+\.npy|(dense|optimizer|loss_scale)\.[\w.]+\.npy"
    r"|\.rank-\d+\.(json|new)|manifest\.json|SHA256SUMS|\.nfs[0-9a-f]+"
)


def foreign(path: str | os.PathLike) -> str | None:
    """Returns why a path is not purely a checkpoint, e.g. "holds keep.txt"; None if it is.

    Args:
        path: a path with the name of a checkpoint, complete or not.
    """
    path = pathlib.Path(path)
    if path.is_symlink():
        return "is a symbolic link"
    if not path.is_dir():
        return "is not a folder"
    known = _listed(path)
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if not _is_ours(entry, known):
            return f"holds {entry.name}"
    return None


def remove(path: str | os.PathLike) -> None:
    """Removes a checkpoint's files, and its folder unless it holds foreign files.

    Ignores files that are already gone or cannot be removed.
    """
    path = pathlib.Path(path)
    if path.is_symlink():
        return
    with contextlib.suppress(OSError):
        known = _listed(path)
        entries = [entry for entry in os.scandir(path) if _is_ours(entry, known)]
        # Checksums first: a half-removed checkpoint must not look complete.
        for entry in sorted(entries, key=lambda entry: entry.name != CHECKSUMS):
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
        path.rmdir()


def _listed(path: pathlib.Path) -> set[str]:
    """Returns the names that a folder's checksums list."""
    try:
        return set(read_checksums(path))
    except DamagedError:
        return set()


def _is_ours(entry: os.DirEntry[str], known: Container[str]) -> bool:
    is_known = entry.name in known or _OURS.fullmatch(entry.name)
    return bool(is_known) and entry.is_file(follow_symlinks=False)
