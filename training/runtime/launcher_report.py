"""Parses a launcher's standard error for the rank that failed first."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from typing import NamedTuple

# The report is at the end of the output.
_KEPT_BYTES = 1 << 16

# Each has a group "rank" and one of "signal" (number), "word" (name of a signal) and "code" (exit
# code; 128 + number if a signal ended the rank).
_REPORTS = (
    # horovodrun
    re.compile(r"Process name: (?P<rank>\d+)\s+Exit code: (?P<code>\d+)"),
    # Open MPI's mpirun and prterun
    re.compile(r"(?s)that process rank (?P<rank>\d+) .*?exited on\s+signal (?P<signal>\d+)"),
    # MPICH's and Intel MPI's Hydra
    re.compile(r"RANK (?P<rank>\d+) PID .*?KILLED BY SIGNAL: (?P<signal>\d+)", re.DOTALL),
    # Slurm's srun
    re.compile(r"error: \S+: task (?P<rank>\d+): (?P<word>Killed|Segmentation fault|Aborted)"),
    re.compile(r"error: \S+: task (?P<rank>\d+): Exited with exit code (?P<code>\d+)"),
)
_WORDS = {"Killed": signal.SIGKILL, "Segmentation fault": signal.SIGSEGV, "Aborted": signal.SIGABRT}


class Failure(NamedTuple):
    """How a rank ended according to its launcher: by a signal, or else with an exit code."""

    rank: int
    code: int
    signal: str = ""

    def __str__(self) -> str:
        how = f"was killed by {self.signal}" if self.signal else f"ended with exit code {self.code}"
        return f"rank {self.rank} {how}"


def first_failure(text: str) -> Failure | None:
    """Returns the `Failure` that a launcher reports first, or None.

    Args:
        text: the standard error of the launcher and its ranks.
    """
    matches = [match for match in (report.search(text) for report in _REPORTS) if match]
    if not matches:
        return None
    found = min(matches, key=lambda match: match.start()).groupdict()
    if found.get("word"):
        number = _WORDS[found["word"]]
    elif found.get("signal"):
        number = int(found["signal"])
    else:
        number = int(found["code"]) - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = ""
    return Failure(int(found["rank"]), int(found.get("code") or 128 + number), name)


class Relay:
    """Forwards a job's standard error to ours and keeps the end of it.

    Attributes:
        write_end: the file descriptor to pass to the job as its standard error.
    """

    def __init__(self):
        self._read_end, self.write_end = os.pipe()
        self._kept = b""
        self._thread = threading.Thread(target=self._run, daemon=True)

    def started(self) -> None:
        """Starts forwarding; call it after the attempt to start the job."""
        os.close(self.write_end)
        self._thread.start()

    def text(self) -> str:
        """Returns the end of the output; call it after the job has ended."""
        # A leftover process of the job may keep the descriptor open.
        self._thread.join(timeout=5)
        return self._kept.decode(errors="replace")

    def _run(self) -> None:
        shown = True
        while piece := os.read(self._read_end, 1 << 16):
            self._kept = (self._kept + piece)[-_KEPT_BYTES:]
            if shown:
                try:
                    sys.stderr.buffer.write(piece)
                    sys.stderr.flush()
                except (OSError, ValueError):
                    shown = False  # Nobody reads our standard error; the job continues.
        os.close(self._read_end)
