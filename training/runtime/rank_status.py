"""The files from which `training.runtime.restart` learns that a rank runs and how it ended.

horovodrun turns every failure into exit code 1, so the ranks leave their own codes in files.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

# The folder for it, set by `training.runtime.restart`.
VARIABLE = "DLRM_STATUS_DIR"


def running(rank: int) -> None:
    """Records that this process is a rank."""
    _write(f"rank-{rank}.pid", os.getpid())


def ended(rank: int, code: int) -> None:
    """Records the exit code of a rank."""
    _write(f"rank-{rank}.code", code)


def lost(rank: int, other: int, text: str) -> None:
    """Records that a rank's watchdog has lost another rank, with the line about it."""
    _write(f"rank-{rank}.lost", f"{other} {text}")


def read(folder: str | os.PathLike, kind: str) -> dict[int, int]:
    """Returns {rank: number} of the files of a kind, "pid" or "code"."""
    found = {}
    for rank, text in _texts(folder, kind):
        with contextlib.suppress(ValueError):
            found[rank] = int(text)
    return found


def read_losses(folder: str | os.PathLike) -> dict[int, str]:
    """Returns {lost rank: the line about it} from the files of the other ranks."""
    found = {}
    for _, text in _texts(folder, "lost"):
        rank, _, line = text.partition(" ")
        with contextlib.suppress(ValueError):
            found[int(rank)] = line
    return found


def _texts(folder: str | os.PathLike, kind: str) -> Iterator[tuple[int, str]]:
    for path in sorted(pathlib.Path(folder).glob(f"rank-*.{kind}")):
        with contextlib.suppress(OSError, ValueError):
            yield int(path.stem.partition("-")[2]), path.read_text()


def _write(name: str, content: str | int) -> None:
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return
    # The launcher may have gone; that must not keep a rank from ending.
    with contextlib.suppress(OSError):
        path = pathlib.Path(folder) / name
        path.with_suffix(".new").write_text(str(content))
        path.with_suffix(".new").rename(path)
