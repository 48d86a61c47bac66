"""Status files: how ranks report their start and end to `training.runtime.restart`.

horovodrun exits with 1 after any failure, so the ranks write their own exit codes to files.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

# `training.runtime.restart` sets it to the folder of the status files.
VARIABLE = "DLRM_STATUS_DIR"


def record_start(rank: int) -> None:
    """Records the process id of a rank."""
    _write(f"rank-{rank}.pid", os.getpid())


def record_exit(rank: int, code: int) -> None:
    """Records the exit code of a rank."""
    _write(f"rank-{rank}.code", code)


def record_loss(rank: int, other: int, text: str) -> None:
    """Records the message of a rank's watchdog about the loss of another rank."""
    _write(f"rank-{rank}.lost", f"{other} {text}")


def read(folder: str | os.PathLike, kind: str) -> dict[int, int]:
    """Returns {rank: number} from the files of a kind, "pid" or "code"."""
    found = {}
    for rank, text in _texts(folder, kind):
        with contextlib.suppress(ValueError):
            found[rank] = int(text)
    return found


def read_losses(folder: str | os.PathLike) -> dict[int, str]:
    """Returns {lost rank: message} from the files of the other ranks."""
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
    # The launcher, and the folder with it, may be gone; the rank must end all the same.
    with contextlib.suppress(OSError):
        path = pathlib.Path(folder) / name
        path.with_suffix(".new").write_text(str(content))
        path.with_suffix(".new").rename(path)
