"""Ends a rank that makes no progress, so that a lost rank never hangs a job.

A collective waits for all ranks. If one of them is gone or stuck, the others would wait for ever
where the transport does not notice; each rank therefore watches itself from a thread of its own.
"""

import os
import sys
import threading
import time

from training.errors import EXIT_RANK_LOST


class Watchdog:
    """Ends the process when `beat` has not been called for `timeout` seconds.

    Args:
        timeout: seconds.
        rank: this rank, for the message.
        on_stall: called with the message; the default prints it and exits at once with
            `EXIT_RANK_LOST`, since a thread stuck in a collective cannot be unwound.
    """

    def __init__(self, timeout, rank, on_stall=None):
        self._timeout = timeout
        self._rank = rank
        self._on_stall = on_stall or _exit
        self._last = None
        self._doing = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
        self._thread.start()

    def beat(self, doing):
        """Says that the rank is alive.

        Args:
            doing: what comes next, for the message, e.g. "step 12".
        """
        self._doing = doing
        self._last = time.monotonic()

    def pause(self):
        """Suspends the watch until the next `beat`, e.g. while a function is compiled."""
        self._last = None

    def close(self):
        """Ends the watch."""
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while not self._stop.wait(min(1.0, self._timeout / 4)):
            last = self._last
            if last is not None and time.monotonic() - last > self._timeout:
                self._on_stall(
                    f"rank {self._rank}: no progress for {self._timeout} s in {self._doing}: "
                    "another rank is lost or stuck (--stall_timeout sets the patience)"
                )
                return


def _exit(message):
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(EXIT_RANK_LOST)
