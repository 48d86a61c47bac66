"""Monitors a job: starts a `Watchdog`, and names the lost rank when a collective fails."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Protocol

from training.runtime import error_translation
from training.runtime.errors import RankLostError
from training.runtime.process_group import ProcessGroup
from training.runtime.watchdog import Watchdog

# Seconds that a failed collective waits for the watchdog to find the lost rank: some ticks of the
# watchdog, but less than the five seconds between horovodrun's SIGTERM and SIGKILL.
_FIND_SECONDS = 2.5
# The same after a SIGTERM: the watchdog reports a death at once.
_DEATH_SECONDS = 1.0


class Monitor(Protocol):
    """The calls by which a job reports progress: a `Watchdog` or a `NullMonitor`."""

    def heartbeat(self, activity: str) -> None:
        """Reports progress; `activity` is what comes next, e.g. "step 12"."""

    def pause(self, alone: bool = False) -> None:
        """Suspends the timeout until the next heartbeat; see `Watchdog.pause`."""


class NullMonitor:
    """The `Monitor` of a single rank: does nothing."""

    def heartbeat(self, activity: str) -> None:
        """Does nothing."""

    def pause(self, alone: bool = False) -> None:
        """Does nothing."""


@contextlib.contextmanager
def monitored(cluster: ProcessGroup, stall_timeout: float) -> Iterator[Monitor]:
    """A context that yields a `Watchdog`, or a `NullMonitor` for a single rank.

    Args:
        cluster: the ranks; all of them must call.
        stall_timeout: seconds without progress after which a rank counts as lost.

    Raises:
        RankLostError: a collective failed; the message names the rank that left the job, if any.
    """
    if cluster.size == 1:
        yield NullMonitor()
        return
    watchdog = Watchdog(cluster, stall_timeout)

    def terminated(number, frame):
        # A launcher terminates all ranks when it has lost one. The watchdog names it and exits.
        watchdog.find_loss(_DEATH_SECONDS)
        signal.signal(number, before)
        signal.raise_signal(number)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        with error_translation.translate_errors(cluster.rank, cluster.size):
            yield watchdog
    except RankLostError as error:
        # A SIGTERM from here on must not prevent the message.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise RankLostError(watchdog.find_loss(_FIND_SECONDS) or str(error)) from error
    else:
        signal.signal(signal.SIGTERM, before)
    finally:
        watchdog.close()
