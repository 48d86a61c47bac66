"""The folder of checkpoints: lists, replaces and removes them."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import re

from storage import atomic
from training.checkpoint import manifest, ownership
from training.checkpoint.checksums import CHECKSUMS

_COMPLETE = re.compile(r"step-(\d{9,})")
PARTIAL = ".partial"
_REMOVED = ".removed"
_REPLACED = ".replaced"
_ANY = re.compile(rf"{_COMPLETE.pattern}({PARTIAL}|{_REMOVED}|{_REPLACED})?")


def name_of(step: int) -> str:
    """Returns the folder name of the checkpoint of a step."""
    return f"step-{step:09d}"


def checkpoints(
    folder: str | os.PathLike, up_to: float = math.inf
) -> list[tuple[int, pathlib.Path]]:
    """Returns [(step, path)] of the checkpoints in a folder, oldest first; [] if it is missing.

    Includes damaged checkpoints, but no other folders with a checkpoint's name.

    Args:
        folder: the folder of checkpoints.
        up_to: the last step to include.
    """
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in pathlib.Path(folder).iterdir():
            match = _COMPLETE.fullmatch(path.name)
            if match is None or int(match[1]) > up_to:
                continue
            marked = any(os.path.lexists(path / name) for name in (CHECKSUMS, manifest.NAME))
            if marked or ownership.foreign(path) is None:
                found.append((int(match[1]), path))
    return sorted(found)


def replace(partial: pathlib.Path, target: pathlib.Path) -> None:
    """Renames a written checkpoint to its final name, replacing a damaged one there."""
    old = target.with_name(target.name + _REPLACED)
    if target.exists():
        target.rename(old)
    atomic.replace(partial, target)
    ownership.remove(old)


def prune(folder: str | os.PathLike, keep: int, step: int) -> None:
    """Removes old checkpoints, but none that holds foreign files.

    Args:
        folder: the folder of checkpoints.
        keep: how many of the newest to keep, not counting those with foreign files.
        step: step of the newest complete checkpoint. Later ones are damaged and were skipped by
            this run: they are neither counted nor removed.
    """
    ours = [path for _, path in checkpoints(folder, step) if ownership.foreign(path) is None]
    for path in ours[:-keep]:
        # Rename first: a half-removed checkpoint must not have a checkpoint's name.
        doomed = path.with_name(path.name + _REMOVED)
        try:
            path.rename(doomed)
        except FileNotFoundError:  # Another process removed it.
            continue
        except OSError:  # A foreign file has the other name.
            doomed = path
        ownership.remove(doomed)


def clean(folder: str | os.PathLike) -> None:
    """Removes unfinished and half-removed checkpoints of a killed run."""
    with contextlib.suppress(FileNotFoundError):
        for path in pathlib.Path(folder).iterdir():
            if not _ANY.fullmatch(path.name) or _COMPLETE.fullmatch(path.name):
                continue
            target = path.with_suffix("")
            if path.suffix == _REPLACED and not os.path.lexists(target):
                path.rename(target)  # The run was killed before it renamed the new one.
            elif ownership.foreign(path) is None:
                ownership.remove(path)


def foreign(folder: str | os.PathLike) -> list[tuple[int, pathlib.Path, str]]:
    """Returns [(step, path, reason)] of paths with a checkpoint's name but foreign content.

    Includes names of unfinished checkpoints: a run that reaches the step would write there.
    """
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(pathlib.Path(folder).iterdir()):
            match = _ANY.fullmatch(path.name)
            reason = ownership.foreign(path) if match else None
            if match and reason is not None:
                found.append((int(match[1]), path, reason))
    return found


def is_checkpoint(path: str | os.PathLike) -> bool:
    """Returns whether a path is one checkpoint rather than a folder of several."""
    return (pathlib.Path(path) / CHECKSUMS).is_file()
