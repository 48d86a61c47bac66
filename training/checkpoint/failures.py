"""Turns any failure to write a checkpoint into one clear error."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable
from types import TracebackType

import psutil

from training.checkpoint import ownership
from training.checkpoint.notes import leave_failure
from training.runtime.errors import UserError


class ErrorTranslation:
    """A context that turns any failure to write a checkpoint into one `UserError`.

    Rank 0 removes the folder. Another rank publishes its error instead: if the folder vanished,
    rank 0 could only report that.

    Args:
        partial: the checkpoint's folder while it is being written.
        rank: this rank.
        needed: bytes that this rank writes.
        newest: function () -> path of the newest whole checkpoint, or None.
    """

    def __init__(
        self,
        partial: pathlib.Path,
        rank: int,
        needed: int,
        newest: Callable[[], pathlib.Path | None],
    ):
        self._partial, self._rank = partial, rank
        self._needed, self._newest = needed, newest

    def __enter__(self) -> ErrorTranslation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, UserError) and self._rank == 0:
            ownership.remove(self._partial)
        if not isinstance(error, OSError):
            return
        where = getattr(error, "filename", None) or self._partial
        text = f"checkpoint {self._partial}: {error.strerror}: {where}"
        try:
            free = psutil.disk_usage(str(self._partial.parent)).free
            text += f"; this rank needs {self._needed:,} bytes, {free:,} are free"
        except OSError:
            text += "; its folder is gone"
        text += f"; the newest whole checkpoint is {self._newest()}"
        self._clear(text)
        raise UserError(text) from error

    def _clear(self, text: str) -> None:
        if self._rank != 0:
            with contextlib.suppress(OSError):
                leave_failure(self._partial, self._rank, text)
                return
        ownership.remove(self._partial)
