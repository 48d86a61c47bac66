"""The folder of checkpoints: which there are, which is newest, which go."""

import contextlib
import pathlib
import re
import shutil

from training.checkpoint.files import CHECKSUMS, sync_folder

_WHOLE = re.compile(r"step-(\d{9,})")
PARTIAL = ".partial"
_REMOVED = ".removed"


def name_of(step):
    """Returns the name of the checkpoint of a step."""
    return f"step-{step:09d}"


def checkpoints(folder):
    """Returns [(step, path)] of the checkpoints in a folder, oldest first; [] without a folder."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in pathlib.Path(folder).iterdir():
            match = _WHOLE.fullmatch(path.name)
            if match and path.is_dir():
                found.append((int(match[1]), path))
    return sorted(found)


def replace(partial, whole):
    """Gives a complete folder its name, in place of one that was there: a damaged one."""
    if whole.exists():
        doomed = whole.with_name(whole.name + _REMOVED)
        whole.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    partial.rename(whole)
    sync_folder(whole.parent)


def prune(folder, keep):
    """Removes all but the newest `keep` checkpoints; one that somebody else removes is no error."""
    for _, path in checkpoints(folder)[:-keep]:
        # Renamed first: half a checkpoint must not have a checkpoint's name.
        doomed = path.with_name(path.name + _REMOVED)
        with contextlib.suppress(FileNotFoundError):
            path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def clean(folder):
    """Removes what a killed run has left half written or half removed."""
    with contextlib.suppress(FileNotFoundError):
        for path in pathlib.Path(folder).iterdir():
            if re.fullmatch(rf"{_WHOLE.pattern}({PARTIAL}|{_REMOVED})", path.name):
                shutil.rmtree(path, ignore_errors=True)


def is_checkpoint(path):
    """Tells whether a path is the folder of one checkpoint rather than of several."""
    return (pathlib.Path(path) / CHECKSUMS).is_file()
