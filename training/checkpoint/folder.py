"""The folder of checkpoints: which there are, which is newest, which go."""

import contextlib
import math
import pathlib
import re
import shutil

from storage.atomic import sync_folder
from training.checkpoint.files import CHECKSUMS

_WHOLE = re.compile(r"step-(\d{9,})")
PARTIAL = ".partial"
_REMOVED = ".removed"
_REPLACED = ".replaced"


def name_of(step):
    """Returns the name of the checkpoint of a step."""
    return f"step-{step:09d}"


def checkpoints(folder, up_to=math.inf):
    """Returns [(step, path)] of the checkpoints in a folder, oldest first; [] without a folder.

    Args:
        folder: where they lie.
        up_to: last step to look for.
    """
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in pathlib.Path(folder).iterdir():
            match = _WHOLE.fullmatch(path.name)
            if match and int(match[1]) <= up_to and path.is_dir():
                found.append((int(match[1]), path))
    return sorted(found)


def replace(partial, whole):
    """Gives a complete folder its name, in place of one that was there: a damaged one."""
    old = whole.with_name(whole.name + _REPLACED)
    if whole.exists():
        whole.rename(old)
    partial.rename(whole)
    sync_folder(whole.parent)
    shutil.rmtree(old, ignore_errors=True)


def prune(folder, keep, step):
    """Removes old checkpoints; one that somebody else removes is no error.

    Args:
        folder: where they lie.
        keep: how many of the newest stay.
        step: the newest whole one. Later ones are damaged ones that this run has passed over:
            they do not count, and stay.
    """
    for _, path in checkpoints(folder, step)[:-keep]:
        # Renamed first: half a checkpoint must not have a checkpoint's name.
        doomed = path.with_name(path.name + _REMOVED)
        with contextlib.suppress(FileNotFoundError):
            path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def clean(folder):
    """Removes what a killed run has left half written or half removed."""
    with contextlib.suppress(FileNotFoundError):
        for path in pathlib.Path(folder).iterdir():
            if not re.fullmatch(rf"{_WHOLE.pattern}({PARTIAL}|{_REMOVED}|{_REPLACED})", path.name):
                continue
            whole = path.with_suffix("")
            if path.suffix == _REPLACED and not whole.exists():
                path.rename(whole)  # killed before the new one had the name
            else:
                shutil.rmtree(path, ignore_errors=True)


def is_checkpoint(path):
    """Tells whether a path is the folder of one checkpoint rather than of several."""
    return (pathlib.Path(path) / CHECKSUMS).is_file()
