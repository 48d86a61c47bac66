"""What one rank may ask of all: to stop, or to write a checkpoint.

All ranks must do either at the same step. So a rank puts what it asks for beside its gradients
(`training.step`), whose average all ranks see: anything above 0 has been asked for by somebody.
The answer to a step is read while the next one runs, so that reading it waits for nothing.
"""

import contextlib
import signal
import time

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ControlVotes:
    """Collects this rank's votes and reads everybody's.

    Args:
        minutes: rank 0 asks for a checkpoint this often; None: it does not.
        rank: this rank.
    """

    def __init__(self, minutes, rank):
        self._seconds = 60 * minutes if minutes is not None and rank == 0 else None
        self._next = None if self._seconds is None else time.monotonic() + self._seconds
        self._stop = False
        self._answers = []

    def local_vote(self):
        """Returns this rank's (stop, checkpoint) for the next step, each 0.0 or 1.0."""
        due = self._next is not None and time.monotonic() >= self._next
        if due:
            # Asked once: the next step sets out before this one's answer has been read.
            self._next = None
        return float(self._stop), float(due)

    @property
    def stopping(self):
        """Whether this rank has been asked to stop."""
        return self._stop

    def global_vote(self, answer):
        """Takes a step's answer, a [2] tensor; returns the (stop, checkpoint) of the one before.

        The first step's answer is known after the second.
        """
        self._answers.append(answer)
        if len(self._answers) < 2:
            return False, False
        stop, checkpoint = self._answers.pop(0).numpy()
        return bool(stop > 0), bool(checkpoint > 0)

    def checkpointed(self):
        """Starts the wait for the next timed checkpoint."""
        if self._seconds is not None:
            self._next = time.monotonic() + self._seconds

    def stop(self):
        """Asks all ranks to stop after the step that they are in."""
        self._stop = True

    @contextlib.contextmanager
    def signals(self):
        """Takes SIGTERM and SIGINT as votes to stop; a second one ends the process at once."""

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
