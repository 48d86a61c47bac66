"""Kills the programs of a benchmark that has died: stopped ones cannot detect it themselves.

    python3 reaper.py

Reads process numbers, one a line: a positive one adds the process to the set, a negative one
removes it. When its input ends, the processes in the set are killed.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Waits for the end of the input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kept: set[int] = set()
    for line in sys.stdin:
        number = int(line)
        (kept.add if number > 0 else kept.discard)(abs(number))
    for number in kept:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    main()
