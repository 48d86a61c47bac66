"""What each rank tells `training.restart` of itself: that it runs, and how it ended.

horovodrun turns every failure into exit code 1, so the ranks leave their own codes in files.
"""

import contextlib
import os
import pathlib

# The folder for it, set by `training.restart`.
VARIABLE = "DLRM_STATUS_DIR"


def running(rank):
    """Says that this process is a rank."""
    _write(f"rank-{rank}.pid", os.getpid())


def ended(rank, code):
    """Says with which exit code a rank ends."""
    _write(f"rank-{rank}.code", code)


def read(folder, kind):
    """Returns {rank: number} of the files of a kind, "pid" or "code"."""
    found = {}
    for path in pathlib.Path(folder).glob(f"rank-*.{kind}"):
        with contextlib.suppress(OSError, ValueError):
            found[int(path.stem.partition("-")[2])] = int(path.read_text())
    return found


def _write(name, number):
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return
    # The launcher may have gone; a rank's end must not hang on it.
    with contextlib.suppress(OSError):
        path = pathlib.Path(folder) / name
        path.with_suffix(".new").write_text(str(number))
        path.with_suffix(".new").rename(path)
