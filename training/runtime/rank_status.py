"""What each rank tells `training.runtime.restart` of itself: that it runs, and how it ended.

horovodrun turns every failure into exit code 1, so the ranks leave their own codes in files.
"""

import contextlib
import os
import pathlib

# The folder for it, set by `training.runtime.restart`.
VARIABLE = "DLRM_STATUS_DIR"


def running(rank):
    """Says that this process is a rank."""
    _write(f"rank-{rank}.pid", os.getpid())


def ended(rank, code):
    """Says with which exit code a rank ends."""
    _write(f"rank-{rank}.code", code)


def lost(rank, other, text):
    """Says that a rank's watch has lost another rank, and the line about it."""
    _write(f"rank-{rank}.lost", f"{other} {text}")


def read(folder, kind):
    """Returns {rank: number} of the files of a kind, "pid" or "code"."""
    found = {}
    for rank, text in _texts(folder, kind):
        with contextlib.suppress(ValueError):
            found[rank] = int(text)
    return found


def read_losses(folder):
    """Returns {lost rank: the line about it} as the other ranks have left it."""
    found = {}
    for _, text in _texts(folder, "lost"):
        rank, _, line = text.partition(" ")
        with contextlib.suppress(ValueError):
            found[int(rank)] = line
    return found


def _texts(folder, kind):
    for path in sorted(pathlib.Path(folder).glob(f"rank-*.{kind}")):
        with contextlib.suppress(OSError, ValueError):
            yield int(path.stem.partition("-")[2]), path.read_text()


def _write(name, content):
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return
    # The launcher may have gone; a rank's end must not hang on it.
    with contextlib.suppress(OSError):
        path = pathlib.Path(folder) / name
        path.with_suffix(".new").write_text(str(content))
        path.with_suffix(".new").rename(path)
