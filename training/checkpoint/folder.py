"""The folder of checkpoints: which there are, which is newest, which go."""

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


def name_of(step):
    """Returns the name of the checkpoint of a step."""
    return f"step-{step:09d}"


def checkpoints(folder, up_to=math.inf):
    """Returns [(step, path)] of the checkpoints in a folder, oldest first; [] without a folder.

    Damaged ones are among them, folders of somebody else's with such a name are not.

    Args:
        folder: where they lie.
        up_to: last step to look for.
    """
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in pathlib.Path(folder).iterdir():
            match = _WHOLE.fullmatch(path.name)
            if match is None or int(match[1]) > up_to:
                continue
            told = any(os.path.lexists(path / name) for name in (CHECKSUMS, manifest.NAME))
            if told or ownership.foreign(path) is None:
                found.append((int(match[1]), path))
    return sorted(found)


def replace(partial, whole):
    """Gives a complete folder its name, in place of one that was there: a damaged one."""
    old = whole.with_name(whole.name + _REPLACED)
    if whole.exists():
        whole.rename(old)
    atomic.replace(partial, whole)
    ownership.remove(old)


def prune(folder, keep, step):
    """Removes old checkpoints; one that somebody else removes is no error.

    One that holds files of somebody else's stays, and does not count.

    Args:
        folder: where they lie.
        keep: how many of the newest stay.
        step: the newest whole one. Later ones are damaged ones that this run has passed over:
            they do not count, and stay.
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


def clean(folder):
    """Removes what a killed run has left half written or half removed."""
    with contextlib.suppress(FileNotFoundError):
        for path in pathlib.Path(folder).iterdir():
            if not _ANY.fullmatch(path.name) or _WHOLE.fullmatch(path.name):
                continue
            whole = path.with_suffix("")
            if path.suffix == _REPLACED and not os.path.lexists(whole):
                path.rename(whole)  # killed before the new one had the name
            elif ownership.foreign(path) is None:
                ownership.remove(path)


def foreign(folder):
    """Returns [(step, path, why)] of what has a checkpoint's name and is not wholly a checkpoint's.

    Names of unfinished checkpoints count too: a run that reaches the step would write there.
    """
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(pathlib.Path(folder).iterdir()):
            match = _ANY.fullmatch(path.name)
            why = ownership.foreign(path) if match else None
            if why is not None:
                found.append((int(match[1]), path, why))
    return found


def is_checkpoint(path):
    """Tells whether a path is the folder of one checkpoint rather than of several."""
    return (pathlib.Path(path) / CHECKSUMS).is_file()
