"""Ends the programs of a benchmark that has died: stopped ones could not see it themselves.

    python3 keeper.py

Reads numbers of processes, one a line, each counted from then on, or with a minus no longer. When
its input ends, those still counted are killed.
"""

import os
import signal
import sys


def main():
    """Waits for the end of the input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kept = set()
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
