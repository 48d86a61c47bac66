"""The last known states of a job's ranks, and the detection of a lost rank."""

from __future__ import annotations

import socket
import time
from typing import NamedTuple

from training.runtime.watchdog_messages import State

# A closed connection does not show why.
CAUSE_UNKNOWN = "it was killed, or it crashed"


class Loss(NamedTuple):
    """A lost rank, and a line about how it was lost."""

    rank: int
    text: str


class RankStates:
    """The last state of each rank, on rank 0; finds the rank that is lost.

    Args:
        timeout: seconds without a message, or without progress, after which a rank is lost.
    """

    def __init__(self, timeout: float):
        self._timeout = timeout
        self._states: dict[int, State] = {}
        self._last_message: dict[int, float] = {}
        self._rank_of: dict[socket.socket | None, int] = {}
        self._died: int | None = None
        self._left: str | None = None

    def update(self, connection: socket.socket | None, state: State) -> None:
        """Records a rank's state; the connection is None for rank 0 itself."""
        self._states[state["rank"]] = state
        self._last_message[state["rank"]] = time.monotonic()
        self._rank_of[connection] = state["rank"]

    def closed(self, connection: socket.socket) -> bool:
        """Records a closed connection; returns whether this shows the death of a rank."""
        rank = self._rank_of.pop(connection, None)
        if rank is not None and not self._states[rank]["leaving"] and self._died is None:
            self._died = rank
            return True
        return False

    def left(self) -> str | None:
        """Returns a line about the first rank that left the job by itself, or None.

        The other ranks fail because of it.
        """
        gone = next((rank for rank, state in self._states.items() if state["leaving"]), None)
        if self._left is None and gone is not None:
            self._left = f"{name_of(gone, self._states[gone])} ended with an error"
        return self._left

    def lost(self) -> Loss | None:
        """Returns the `Loss` of the rank that is dead, silent or stuck, or None."""
        if self._died is not None:
            return self._loss(self._died, death(self._states[self._died]["activity"]))
        now = time.monotonic()
        watched = {r: s for r, s in self._states.items() if not s["leaving"]}
        for rank in watched:
            silent = now - self._last_message[rank]
            if silent > self._timeout:
                return self._loss(
                    rank,
                    f"has sent no message for {silent:.0f} s (the last one during "
                    f"{watched[rank]['activity']}); --stall_timeout sets the limit",
                )
        # In a collective all ranks wait for the stuck one, which has made the least progress.
        # Ranks that are ahead of it and have paused wait for it too.
        if not watched:
            return None
        behind = min(watched.values(), key=lambda state: (state["count"], -state["idle"]))
        if behind["idle"] > self._timeout and all(
            s["idle"] > self._timeout or (s["paused"] and s["count"] > behind["count"])
            for s in watched.values()
        ):
            return self._loss(
                behind["rank"],
                f"has made no progress for {behind['idle']:.0f} s in {behind['activity']}, and the "
                "others wait for it; --stall_timeout sets the limit",
            )
        return None

    def _loss(self, rank: int, text: str) -> Loss:
        return Loss(rank, f"{name_of(rank, self._states[rank])} {text}")


def death(activity: str) -> str:
    """Returns the message about a rank that died during an activity."""
    return f"died during {activity}: {CAUSE_UNKNOWN}"


def name_of(rank: int, state: State | None) -> str:
    """Returns "rank 1 (process 4711 on node3)", or "rank 1" without a state."""
    return f"rank {rank} (process {state['pid']} on {state['host']})" if state else f"rank {rank}"
