"""Kills a benchmark's programs when the benchmark dies: stopped processes cannot detect it.

    python3 reaper.py

Reads process ids from stdin, one per line: a positive id registers a process, a negative id removes
it. At the end of the input all registered processes are killed.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Waits for the end of the input, then kills the registered processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    registered: set[int] = set()
    for line in sys.stdin:
        number = int(line)
        (registered.add if number > 0 else registered.discard)(abs(number))
    for number in registered:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    main()
