"""Votes by which any rank makes all ranks stop, or write a checkpoint, after the same step.

The ranks average their votes together with the gradients (`training.step`): a mean above 0 is a
request of some rank. The result of a step is read while a later step runs. A read from a GPU waits
for the steps that it has been given, so results on GPUs are kept and read together, seldom.
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
        read_every: number of results to keep before they are read; equal on all ranks.
    """

    def __init__(self, minutes: float | None, rank: int, *, read_every: int = 1):
        self._read_every = read_every
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
        """Takes the averaged votes of a step, [2]; returns whether (stop, checkpoint) is requested.

        After every `read_every` steps, it reads the votes of the steps before this one. Otherwise,
        and for the first step, it returns (False, False).
        """
        self._answers.append(answer)
        if len(self._answers) <= self._read_every:
            return False, False
        *earlier, newest = self._answers
        self._answers = [newest]
        votes = earlier[0] if len(earlier) == 1 else tf.reduce_max(tf.stack(earlier), axis=0)
        stop, checkpoint = votes.numpy()
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
