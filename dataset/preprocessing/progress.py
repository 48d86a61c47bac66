"""Progress bars with rows/s and ETA, also over tasks in other processes."""

from __future__ import annotations

import sys
import time
from typing import Any

import tqdm

_counters = None


class StoppedError(Exception):
    """Another task failed, or the user stopped the run: this one need not go on."""


def share(counters: Any) -> None:
    """Takes the array [bytes, rows, stop] of this process's tasks; None for none.

    The first two they count into; once the third is not 0 they end.
    """
    global _counters
    _counters = counters


def advance(bytes_done: int, rows_done: int) -> None:
    """Adds to what tasks have done.

    Raises:
        StoppedError: the tasks are to end.
    """
    if _counters is not None:
        with _counters.get_lock():
            if _counters[2]:
                raise StoppedError
            _counters[0] += bytes_done
            _counters[1] += rows_done


class ProgressBar:
    """A bar over bytes or items, with rows/s beside it; on standard error, if that is a terminal.

    A context manager.
    """

    def __init__(self, title: str, total: int, unit: str):
        """Takes what is counted (unit "B" is scaled to kB, MB ...) and how much there is."""
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
        """Shows how much is done, all in all."""
        if rows:
            rate = rows / max(time.monotonic() - self._start, 1e-9)
            self._bar.set_postfix_str(f"{rate / 1e6:.2f}M rows/s", refresh=False)
        self._bar.update(min(done, self._bar.total or done) - self._bar.n)
