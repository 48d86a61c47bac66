"""Votes by which any rank makes all ranks stop, or write a checkpoint, after the same step.

The ranks average their votes together with the gradients (`training.step`): a mean above 0 is a
request of some rank. The result of a step is read while the next step runs, so that the read does
not wait.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

import tensorflow as tf

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ControlVotes:
    """Collects this rank's votes and reads the votes of all ranks.

    Args:
        minutes: interval at which rank 0 requests checkpoints; None for no requests.
        rank: this rank.
    """

    def __init__(self, minutes: float | None, rank: int):
        self._seconds = 60 * minutes if minutes is not None and rank == 0 else None
        self._next = None if self._seconds is None else time.monotonic() + self._seconds
        self._stop = False
        self._answers: list[tf.Tensor] = []

    def local_vote(self) -> tuple[float, float]:
        """Returns this rank's (stop, checkpoint) for the next step, each 0.0 or 1.0."""
        due = self._next is not None and time.monotonic() >= self._next
        if due:
            # Vote once: the next step starts before the result of this one is read.
            self._next = None
        return float(self._stop), float(due)

    @property
    def stopping(self) -> bool:
        """Whether this rank has received a request to stop."""
        return self._stop

    def global_vote(self, answer: tf.Tensor) -> tuple[bool, bool]:
        """Takes the averaged votes of a step, [2]; returns (stop, checkpoint) of the previous step.

        Returns (False, False) for the first step.
        """
        self._answers.append(answer)
        if len(self._answers) < 2:
            return False, False
        stop, checkpoint = self._answers.pop(0).numpy()
        return bool(stop > 0), bool(checkpoint > 0)

    def checkpointed(self) -> None:
        """Restarts the interval: a checkpoint has been written."""
        if self._seconds is not None:
            self._next = time.monotonic() + self._seconds

    def stop(self) -> None:
        """Requests that all ranks stop after their current step."""
        self._stop = True

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """A context in which SIGTERM or SIGINT is a vote to stop; a second one ends the process."""

        def handle(number, frame):
            if self._stop:
                signal.signal(number, before[number])
                signal.raise_signal(number)
            self.stop()

        before = {number: signal.signal(number, handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
