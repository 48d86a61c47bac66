"""The messages of the ranks to the watchdog of rank 0, parsed as untrusted input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, TypedDict

import msgspec

from storage.structured import StructureError, parse_json

# Limit of one line. Its longest fields are the host name and the activity.
_MAX_BYTES = 1 << 16
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class State(TypedDict):
    """The state of a rank; see `training.runtime.watchdog.Watchdog`."""

    rank: _Count
    pid: _Count
    host: str
    activity: str
    count: _Count
    idle: Annotated[float, msgspec.Meta(ge=0, le=1e9)]
    paused: bool
    leaving: bool


def read_states(buffer: bytes, ranks: int) -> Iterator[State]:
    """Yields the `State`s in the complete lines received over a connection to rank 0.

    Args:
        buffer: the received bytes.
        ranks: number of ranks.

    Raises:
        StructureError: the bytes are not from a rank of the job.
    """
    where = "a message to the watchdog"
    *lines, rest = buffer.split(b"\n")
    for line in [*lines, rest]:
        if len(line) > _MAX_BYTES:
            raise StructureError(where, f"expected at most {_MAX_BYTES} bytes in a line")
    for line in filter(None, lines):
        state = parse_json(line, where, State)
        if not 0 < state["rank"] < ranks:
            raise StructureError(where, f"expected 1 to {ranks - 1}, found {state['rank']}", "rank")
        yield state
