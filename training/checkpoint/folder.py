"""The folder of checkpoints: lists them, and removes old and unfinished ones."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import re

from storage import atomic
from training.checkpoint import manifest, ownership
from training.checkpoint.files import CHECKSUMS

_WHOLE = re.compile(r"step-(\d{9,})")
PARTIAL = ".partial"
_REMOVED = ".removed"
_REPLACED = ".replaced"
_ANY = re.compile(rf"{_WHOLE.pattern}({PARTIAL}|{_REMOVED}|{_REPLACED})?")


def name_of(step: int) -> str:
    """Returns the name of the checkpoint of a step."""
    return f"step-{step:09d}"


def checkpoints(
    folder: str | os.PathLike, up_to: float = math.inf
) -> list[tuple[int, pathlib.Path]]:
    """Returns [(step, path)] of the checkpoints in a folder, oldest first; [] without a folder.

    Damaged checkpoints are included; other folders with such a name are not.

    Args:
        folder: of the checkpoints.
        up_to: the last step to include.
    """
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in pathlib.Path(folder).iterdir():
            match = _WHOLE.fullmatch(path.name)
            if match is None or int(match[1]) > up_to:
                continue
            marked = any(os.path.lexists(path / name) for name in (CHECKSUMS, manifest.NAME))
            if marked or ownership.foreign(path) is None:
                found.append((int(match[1]), path))
    return sorted(found)


def replace(partial: pathlib.Path, whole: pathlib.Path) -> None:
    """Renames a complete folder to its final name, replacing a damaged checkpoint there."""
    old = whole.with_name(whole.name + _REPLACED)
    if whole.exists():
        whole.rename(old)
    atomic.replace(partial, whole)
    ownership.remove(old)


def prune(folder: str | os.PathLike, keep: int, step: int) -> None:
    """Removes old checkpoints; ignores one that another process removes meanwhile.

    A checkpoint that holds foreign files stays, and does not count.

    Args:
        folder: of the checkpoints.
        keep: how many of the newest stay.
        step: the newest complete one. Later ones are damaged; this run skipped them, so they do
            not count, and stay.
    """
    ours = [path for _, path in checkpoints(folder, step) if ownership.foreign(path) is None]
    for path in ours[:-keep]:
        # Renamed first: half a checkpoint must not have a checkpoint's name.
        doomed = path.with_name(path.name + _REMOVED)
        try:
            path.rename(doomed)
        except FileNotFoundError:
            continue
        except OSError:  # The other name is taken, by what is not ours.
            doomed = path
        ownership.remove(doomed)


def clean(folder: str | os.PathLike) -> None:
    """Removes the unfinished and half-removed checkpoints of a killed run."""
    with contextlib.suppress(FileNotFoundError):
        for path in pathlib.Path(folder).iterdir():
            if not _ANY.fullmatch(path.name) or _WHOLE.fullmatch(path.name):
                continue
            whole = path.with_suffix("")
            if path.suffix == _REPLACED and not os.path.lexists(whole):
                path.rename(whole)  # killed before the new one had the name
            elif ownership.foreign(path) is None:
                ownership.remove(path)


def foreign(folder: str | os.PathLike) -> list[tuple[int, pathlib.Path, str]]:
    """Returns [(step, path, why)] of paths with a checkpoint's name but foreign content.

    Names of unfinished checkpoints count too: a run that reaches the step would write there.
    """
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(pathlib.Path(folder).iterdir()):
            match = _ANY.fullmatch(path.name)
            why = ownership.foreign(path) if match else None
            if match and why is not None:
                found.append((int(match[1]), path, why))
    return found


def is_checkpoint(path: str | os.PathLike) -> bool:
    """Returns whether a path is one checkpoint rather than a folder of several."""
    return (pathlib.Path(path) / CHECKSUMS).is_file()
