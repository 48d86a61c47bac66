"""Turns any failure to write a checkpoint into one clear error."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import psutil

from training.checkpoint import ownership
from training.checkpoint.completion_records import publish_failure
from training.runtime.errors import UserError


@contextlib.contextmanager
def translate_write_errors(
    partial: pathlib.Path, rank: int, needed: int, newest: Callable[[], pathlib.Path | None]
) -> Iterator[None]:
    """Raises `UserError` in place of an OSError, and discards the unfinished checkpoint.

    Rank 0 removes the folder. The other ranks publish their error in it instead: if they removed
    the folder, rank 0 could only report that it is gone.

    Args:
        partial: the checkpoint's folder while it is being written.
        rank: this rank.
        needed: bytes that this rank writes.
        newest: function () -> path of the newest complete checkpoint, or None.
    """
    try:
        yield
    except UserError:
        if rank == 0:
            ownership.remove(partial)
        raise
    except OSError as error:
        path = error.filename or partial
        text = f"checkpoint {partial}: {error.strerror}: {path}"
        try:
            free = psutil.disk_usage(str(partial.parent)).free
            text += f"; this rank needs {needed:,} bytes, {free:,} are free"
        except OSError:
            free = None
            text += f"; the folder {partial.parent} no longer exists"
        complete = newest()
        if complete is None:
            text += "; there is no complete checkpoint"
        else:
            text += f"; the newest complete checkpoint is {complete}"
        published = False
        if rank != 0:
            with contextlib.suppress(OSError):
                publish_failure(partial, rank, text)
                published = True
        if not published:
            ownership.remove(partial)
        raise UserError(text, path=path, expected=needed, found=free) from error
