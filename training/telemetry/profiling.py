"""Profiles a range of steps with TensorFlow; view with `tensorboard --logdir RUN`, tab Profile."""

from __future__ import annotations

import pathlib

import tensorflow as tf


class StepProfile:
    """Profiles the steps (first, last) to a folder; nothing if `steps` is None."""

    def __init__(self, steps: tuple[int, int] | None, folder: str | pathlib.Path | None) -> None:
        # (1, 0) is an empty range.
        self._first, self._last = steps or (1, 0)
        self._folder = folder
        self._running = False

    def before(self, step: int) -> None:
        """Starts the profiler at the first step of the range, or at the run's first step in it."""
        if self._first <= step <= self._last and not self._running:
            tf.profiler.experimental.start(str(self._folder))
            self._running = True

    def after(self, step: int) -> bool:
        """Stops the profiler after the last step of the range; returns whether it did."""
        if not self._running or step < self._last:
            return False
        return self.close()

    def close(self) -> bool:
        """Stops the profiler if it is running; returns whether it was."""
        if not self._running:
            return False
        self._running = False
        tf.profiler.experimental.stop()
        return True
