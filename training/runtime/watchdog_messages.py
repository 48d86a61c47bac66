"""What a rank sends to the watch over the job, read as if anybody could have sent it."""

from typing import Annotated, TypedDict

import msgspec

from storage.structured import StructureError, parse_json

# Of one line: the longest words in it are a host's name and what a rank does.
_MOST_BYTES = 1 << 16
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class State(TypedDict):
    """What a rank does: see `training.runtime.watchdog.Watchdog`."""

    rank: _Count
    pid: _Count
    host: str
    doing: str
    count: _Count
    idle: Annotated[float, msgspec.Meta(ge=0, le=1e9)]
    paused: bool
    leaving: bool


def read_states(buffer, ranks):
    """Yields the `State`s in the complete lines of what has come over a connection to rank 0.

    Args:
        buffer: the bytes.
        ranks: number of ranks.

    Raises:
        StructureError: no rank of the job has sent this.
    """
    where = "a message to the watch"
    *lines, rest = buffer.split(b"\n")
    for line in [*lines, rest]:
        if len(line) > _MOST_BYTES:
            raise StructureError(where, f"expected at most {_MOST_BYTES} bytes in a line")
    for line in filter(None, lines):
        state = parse_json(line, where, State)
        if not 0 < state["rank"] < ranks:
            raise StructureError(where, f"expected 1 to {ranks - 1}, found {state['rank']}", "rank")
        yield state
