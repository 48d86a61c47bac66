"""A TensorFlow profile of some steps: `tensorboard --logdir RUN`, its tab Profile."""

from __future__ import annotations

import os

import tensorflow as tf


class StepProfile:
    """Starts and stops TensorFlow's profiler.

    Args:
        steps: (first, last) step to profile, or None for none.
        folder: folder of the profile; None without steps.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: str | os.PathLike | None):
        self._steps = steps
        self._folder = folder
        self._running = False

    def before(self, step: int) -> None:
        """Starts before the first step to profile, or before the run's first if it is later."""
        if self._steps and self._steps[0] <= step <= self._steps[1] and not self._running:
            tf.profiler.experimental.start(str(self._folder))
            self._running = True

    def after(self, step: int) -> bool:
        """Stops after the last step; returns whether it did."""
        if not self._running or (self._steps and step < self._steps[1]):
            return False
        return self.close()

    def close(self) -> bool:
        """Stops a profile that is still running; returns whether there was one."""
        if not self._running:
            return False
        self._running = False
        tf.profiler.experimental.stop()
        return True
