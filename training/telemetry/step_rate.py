"""Measures training speed on a clock that stops during evaluations and checkpoints."""

from __future__ import annotations

import time


class StepRate:
    """Seconds per step and samples per second, without the first step, which traces and compiles.

    Args:
        start: number of the last step before the run's first.
        batch: global batch size in samples.
    """

    def __init__(self, start: int, batch: int) -> None:
        self._first = start + 1
        self._batch = batch
        self._begin = 0.0
        self._paused = 0.0
        self._reported = (self._first, 0.0)

    def start_clock(self) -> None:
        """Starts the clock; call after the first step."""
        self._begin, self._paused = time.perf_counter(), 0.0

    def pause(self, seconds: float) -> None:
        """Excludes seconds that were not spent on steps."""
        self._paused += seconds

    def since_last_call(self, done: int) -> tuple[float, float]:
        """Returns (seconds per step, samples per second) since the last call; zeros without a step.

        Args:
            done: number of the last completed step.
        """
        seconds = time.perf_counter() - self._begin - self._paused
        steps = done - self._reported[0]
        per_step = (seconds - self._reported[1]) / steps if steps > 0 else 0.0
        self._reported = (done, seconds)
        return per_step, self._batch / per_step if per_step else 0.0

    def overall(self, done: int, end: float) -> tuple[float | None, float | None]:
        """Returns (seconds per step, samples per second) of the run, (None, None) for one step.

        Args:
            done: number of the last completed step.
            end: when it completed, by `time.perf_counter`.
        """
        steps = done - self._first
        if steps < 1:
            return None, None
        per_step = (end - self._begin - self._paused) / steps
        return per_step, self._batch / per_step
