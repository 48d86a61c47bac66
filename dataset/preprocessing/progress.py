"""Progress bars with rows/s and ETA, also for tasks in other processes."""

from __future__ import annotations

import sys
import time
from typing import Any

import tqdm

_counters = None


class StoppedError(Exception):
    """Another task failed, or the user stopped the run."""


def share(counters: Any) -> None:
    """Sets this process's shared array [bytes, rows, stop]; None for none.

    Tasks count bytes and rows there, and end once `stop` is not 0.
    """
    global _counters
    _counters = counters


def advance(bytes_done: int, rows_done: int) -> None:
    """Adds to the shared counters.

    Raises:
        StoppedError: the task should end.
    """
    if _counters is not None:
        with _counters.get_lock():
            if _counters[2]:
                raise StoppedError
            _counters[0] += bytes_done
            _counters[1] += rows_done


class ProgressBar:
    """A progress bar with rows/s, on standard error if that is a terminal; a context manager."""

    def __init__(self, title: str, total: int, unit: str):
        """Shows an empty bar of `total` units; unit "B" is scaled to kB, MB, ..."""
        scaled = unit in ("B", " rows")
        self._bar = tqdm.tqdm(
            desc=title,
            total=total,
            unit=unit,
            unit_scale=scaled,
            disable=not sys.stderr.isatty(),
            mininterval=0.5,
            leave=False,
        )
        self._rows = 0
        self._start = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def show(self, done: float, rows: int | None = None) -> None:
        """Shows the total done so far."""
        if rows:
            rate = rows / max(time.monotonic() - self._start, 1e-9)
            self._bar.set_postfix_str(f"{rate / 1e6:.2f}M rows/s", refresh=False)
        self._bar.update(min(done, self._bar.total or done) - self._bar.n)
