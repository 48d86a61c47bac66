"""The ranks of a job as their watch sees them: what each does, and which is lost."""

import time
from typing import NamedTuple

# A closed connection says no more.
CAUSE_UNKNOWN = "it was killed, or it crashed"


class Loss(NamedTuple):
    """A lost rank, and the line that says what is known about it."""

    rank: int
    text: str


class RankStates:
    """What rank 0 knows of each rank, and which of them is lost.

    Args:
        timeout: seconds without a sign of life, or without progress, after which a rank is lost.
    """

    def __init__(self, timeout):
        self._timeout = timeout
        self._states = {}
        self._heard = {}
        self._rank_of = {}
        self._died = None
        self._left = None

    def hear(self, connection, state):
        """Takes the state that a rank has sent; None as the connection is rank 0 itself."""
        self._states[state["rank"]] = state
        self._heard[state["rank"]] = time.monotonic()
        self._rank_of[connection] = state["rank"]

    def closed(self, connection):
        """Takes note that the other end has closed a connection; returns whether a rank died."""
        rank = self._rank_of.pop(connection, None)
        if rank is not None and not self._states[rank]["leaving"] and self._died is None:
            self._died = rank
            return True
        return False

    def left(self):
        """Returns a line about the first rank that has left the job, or None.

        The others leave because of it.
        """
        gone = next((rank for rank, state in self._states.items() if state["leaving"]), None)
        if self._left is None and gone is not None:
            self._left = f"{name_of(gone, self._states[gone])} ended with an error"
        return self._left

    def lost(self):
        """Returns a `Loss`, or None."""
        if self._died is not None:
            doing = self._states[self._died]["doing"]
            return self._loss(self._died, death(doing))
        now = time.monotonic()
        watched = {r: s for r, s in self._states.items() if not s["leaving"]}
        for rank in watched:
            silent = now - self._heard[rank]
            if silent > self._timeout:
                return self._loss(
                    rank,
                    f"has not answered for {silent:.0f} s (last heard during "
                    f"{watched[rank]['doing']}); --stall_timeout sets the limit",
                )
        # Ranks that wait in a collective stand still with the one that they wait for: that is
        # the one which has come least far. So do those that have come further and pause there.
        if not watched:
            return None
        behind = min(watched.values(), key=lambda state: (state["count"], -state["idle"]))
        if behind["idle"] > self._timeout and all(
            s["idle"] > self._timeout or (s["paused"] and s["count"] > behind["count"])
            for s in watched.values()
        ):
            return self._loss(
                behind["rank"],
                f"has made no progress for {behind['idle']:.0f} s in {behind['doing']} and the "
                "others wait; --stall_timeout sets the limit",
            )
        return None

    def _loss(self, rank, text):
        return Loss(rank, f"{name_of(rank, self._states[rank])} {text}")


def death(doing):
    """Returns what is known of a rank that died while it was doing something."""
    return f"died during {doing}: {CAUSE_UNKNOWN}"


def name_of(rank, state):
    """Returns "rank 1 (process 4711 on node3)", without what the state does not say."""
    return f"rank {rank} (process {state['pid']} on {state['host']})" if state else f"rank {rank}"
