"""A TensorFlow profile of some steps: `tensorboard --logdir RUN`, its tab Profile."""

from __future__ import annotations

import pathlib

import tensorflow as tf


class StepProfile:
    """Starts and stops TensorFlow's profiler.

    Args:
        steps: (first, last) step to profile, or None for none.
        folder: where the profile goes; None where there are no steps.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: str | pathlib.Path | None) -> None:
        # Without steps: a range that no step is in.
        self._first, self._last = steps or (1, 0)
        self._folder = folder
        self._running = False

    def before(self, step: int) -> None:
        """Starts before the first step; one before the run's own first starts with that."""
        if self._first <= step <= self._last and not self._running:
            tf.profiler.experimental.start(str(self._folder))
            self._running = True

    def after(self, step: int) -> bool:
        """Stops after the last step; returns whether it did."""
        if not self._running or step < self._last:
            return False
        return self.close()

    def close(self) -> bool:
        """Stops a profile that is still running; returns whether there was one."""
        if not self._running:
            return False
        self._running = False
        tf.profiler.experimental.stop()
        return True
