"""A job under watch: `watched` starts a `Watchdog` and names the lost rank where one is lost."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Protocol

from training.runtime import error_translation
from training.runtime.errors import RankLostError
from training.runtime.process_group import ProcessGroup
from training.runtime.watchdog import Watchdog

# How long a failed exchange waits for the watch to find a lost rank (s): some ticks of the watch,
# and less than the five seconds that horovodrun leaves between SIGTERM and SIGKILL.
_VERDICT_SECONDS = 2.5
# The same for a SIGTERM: a death is reported at once.
_DEATH_SECONDS = 1.0


class Watch(Protocol):
    """What a job calls while it runs: of a `Watchdog`, or of `NoWatch`."""

    def heartbeat(self, activity: str) -> None:
        """Reports progress; `activity` is what comes next, e.g. "step 12"."""

    def pause(self, alone: bool = False) -> None:
        """Expects no progress until the next heartbeat; `alone`: other ranks need not pause."""


class NoWatch:
    """The `Watch` of a single rank: does nothing."""

    def heartbeat(self, activity: str) -> None:
        """Does nothing."""

    def pause(self, alone: bool = False) -> None:
        """Does nothing."""


@contextlib.contextmanager
def watched(cluster: ProcessGroup, stall_timeout: float) -> Iterator[Watch]:
    """Gives a `Watchdog`, or `NoWatch` for a single rank.

    Args:
        cluster: the ranks; all of them must call.
        stall_timeout: seconds without progress after which a rank is given up.

    Raises:
        RankLostError: an exchange failed; it names the rank that has left the job, if one has.
    """
    if cluster.size == 1:
        yield NoWatch()
        return
    watchdog = Watchdog(cluster, stall_timeout)

    def terminated(number, frame):
        # A launcher ends all ranks when it has lost one. The watch names that one, and exits.
        watchdog.find_loss(_DEATH_SECONDS)
        signal.signal(number, before)
        signal.raise_signal(number)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        with error_translation.translate_errors(cluster.rank, cluster.size):
            yield watchdog
    except RankLostError as error:
        # The process ends: a SIGTERM that comes now must not keep it from printing why.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise RankLostError(watchdog.find_loss(_VERDICT_SECONDS) or str(error)) from error
    else:
        signal.signal(signal.SIGTERM, before)
    finally:
        watchdog.close()
