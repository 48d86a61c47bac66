"""Progress bars with rows/s and ETA, also over tasks in other processes."""

from __future__ import annotations

import sys
import time

import tqdm

_counters = None


def share(counters):
    """Takes the array [bytes, rows] that this process's tasks count into; None for nowhere."""
    global _counters
    _counters = counters


def advance(bytes_done, rows_done):
    """Adds to what tasks have done."""
    if _counters is not None:
        with _counters.get_lock():
            _counters[0] += bytes_done
            _counters[1] += rows_done


class ProgressBar:
    """A bar over bytes or items, with rows/s beside it; on standard error, if that is a terminal.

    A context manager.
    """

    def __init__(self, title, total, unit):
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

    def show(self, done, rows=None):
        """Shows how much is done, all in all."""
        if rows:
            rate = rows / max(time.monotonic() - self._start, 1e-9)
            self._bar.set_postfix_str(f"{rate / 1e6:.2f}M rows/s", refresh=False)
        self._bar.update(min(done, self._bar.total or done) - self._bar.n)
