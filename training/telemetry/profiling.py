"""A TensorFlow profile of some steps: `tensorboard --logdir RUN`, its tab Profile."""

import tensorflow as tf


class StepProfile:
    """Starts and stops TensorFlow's profiler.

    Args:
        steps: (first, last) step to profile, or None for none.
        folder: where the profile goes; None where there are no steps.
    """

    def __init__(self, steps, folder):
        self._first, self._last = steps or (None, None)
        self._folder = folder
        self._running = False

    def before(self, step):
        """Starts before the first step; one before the run's own first starts with that."""
        if self._first is not None and self._first <= step <= self._last and not self._running:
            tf.profiler.experimental.start(str(self._folder))
            self._running = True

    def after(self, step):
        """Stops after the last step; returns whether it did."""
        if not self._running or step < self._last:
            return False
        return self.close()

    def close(self):
        """Stops a profile that is still running; returns whether there was one."""
        if not self._running:
            return False
        self._running = False
        tf.profiler.experimental.stop()
        return True
