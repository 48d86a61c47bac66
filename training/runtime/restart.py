"""Restarts a job after the loss of a rank; the job resumes from its newest checkpoint.

    python3 -m training.restart --max_restarts 3 -- \
        horovodrun -np 8 ./hvd_wrapper.sh python3 main.py --checkpoint_dir=DIR ...

Does not restart a job that ended with a user error, a diverged loss or a request to stop. Forwards
SIGTERM and SIGINT directly to the ranks, which finish their step and write a checkpoint: horovodrun
would kill them after five seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

import psutil

from training.runtime import launcher_report, rank_status
from training.runtime.errors import (
    EXIT_DIVERGED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_RANK_LOST,
    EXIT_USER_ERROR,
)
from training.runtime.rank_states import CAUSE_UNKNOWN

# A job that ended for one of these reasons would end the same way again.
_FINAL = {
    EXIT_USER_ERROR: "an error that the user must fix",
    EXIT_DIVERGED: "a diverged loss",
    EXIT_INTERRUPTED: "a request to stop",
}
_POLL_SECONDS = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code of its last run."""
    parser = argparse.ArgumentParser(
        prog="python3 -m training.restart",
        description="Restarts a job after the loss of a rank.",
    )
    add = parser.add_argument
    add("--max_restarts", type=_count, default=3, metavar="K", help="number of restarts [3]")
    add("--grace", type=_count, default=300, metavar="SECONDS",
        help="seconds for the last checkpoint after SIGTERM or SIGINT [300]")  # fmt: skip
    add("command", nargs=argparse.REMAINDER, help="-- followed by the command of the job")
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("expected -- followed by the command of the job, found no command")
    if not any(word.startswith(("--checkpoint_dir", "--flagfile")) for word in command):
        parser.error("expected --checkpoint_dir in the command: a restart would begin at step 0")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    for restart in range(options.max_restarts + 1):
        code, reason = _run(command, stopping, options.grace)
        if code == EXIT_OK or reason in _FINAL.values():
            if code != EXIT_OK:
                _log(f"the job ended with {reason}: not restarted")
            return code
        if restart == options.max_restarts:
            _log(f"{reason}: giving up after {restart} restarts")
            return code
        _log(f"{reason}: restart {restart + 1} of {options.max_restarts}")
    return EXIT_RANK_LOST


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: expected an integer of at least 0")
    return int(text)


def _run(command: Sequence[str], stopping: threading.Event, grace: float) -> tuple[int, str]:
    """Runs the command once; returns (exit code, reason of its end)."""
    if stopping.is_set():
        return EXIT_INTERRUPTED, _FINAL[EXIT_INTERRUPTED]
    with tempfile.TemporaryDirectory(prefix="dlrm-status-") as folder:
        relay = launcher_report.Relay()
        try:
            env = {**os.environ, rank_status.VARIABLE: folder}
            process = subprocess.Popen(
                command, env=env, stderr=relay.write_end, start_new_session=True
            )
        except OSError as error:
            _log(f"{command[0]}: {error.strerror}")
            return EXIT_USER_ERROR, _FINAL[EXIT_USER_ERROR]
        finally:
            relay.started()
        family: dict[int, psutil.Process] = {}
        deaths: list[int] = []
        try:
            _wait(process, folder, stopping, grace, family, deaths)
        finally:
            _end(process, family)
        facts = _Facts(
            started=set(rank_status.read(folder, "pid")),
            codes=rank_status.read(folder, "code"),
            losses=rank_status.read_losses(folder),
            deaths=deaths,
            reported=launcher_report.first_failure(relay.text()),
        )
        return _outcome(process.returncode, facts, stopping.is_set())


@dataclasses.dataclass(frozen=True)
class _Facts:
    """Facts about the ranks of a run that has ended.

    Attributes:
        started: ranks that started.
        codes: {rank: exit code} of ranks that ended by themselves.
        losses: {rank: message} of ranks that the watchdogs of others found lost.
        deaths: ranks whose processes on this host ended, in the order of their ends.
        reported: the failure that the launcher reported, or None.
    """

    started: set[int]
    codes: dict[int, int]
    losses: dict[int, str]
    deaths: list[int]
    reported: launcher_report.Failure | None


def _wait(
    process: subprocess.Popen,
    folder: str,
    stopping: threading.Event,
    grace: float,
    family: dict[int, psutil.Process],
    deaths: list[int],
) -> None:
    """Waits for the end of the job; forwards a request to stop to each rank once.

    Collects the job's processes in `family`, since they cannot be found once their parents are
    gone, and the ranks whose processes ended in `deaths`, in the order of their ends.
    """
    deadline, asked = None, set[int]()
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                family[child.pid] = child
        for rank, pid in rank_status.read(folder, "pid").items():
            if rank not in deaths and pid in family and not _alive(family[pid]):
                deaths.append(rank)
        if stopping.is_set():
            if deadline is None:
                deadline = time.monotonic() + grace
                _log("asking the ranks to stop")
            # In every round: a rank may still be starting.
            for pid in set(rank_status.read(folder, "pid").values()) - asked:
                if pid in family or pid == process.pid:
                    asked.add(pid)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
        if deadline is not None and time.monotonic() > deadline:
            _log(f"the ranks have not stopped within {grace} s")
            return
        time.sleep(_POLL_SECONDS)


def _outcome(code: int, facts: _Facts, stopped: bool) -> tuple[int, str]:
    """Returns (exit code, reason) of a run, given the launcher's exit code."""
    if code == EXIT_OK:
        return EXIT_OK, "done"
    if stopped:
        return EXIT_INTERRUPTED, _FINAL[EXIT_INTERRUPTED]
    for final, reason in _FINAL.items():
        if final in facts.codes.values():
            return final, reason
    if code in _FINAL and not facts.started:
        return code, _FINAL[code]
    return EXIT_RANK_LOST, _lost_rank(facts) or f"the job ended with exit code {code}"


def _lost_rank(facts: _Facts) -> str | None:
    """Returns a text with the lost rank and how it ended, or None if unknown.

    The best source is the watchdog of the other ranks, which detects a dead or stuck rank. Without
    it, the lost rank is the first that ended without an exit code: the launcher kills the others
    after it. The launcher's report adds the signal, and ranks of other hosts.
    """
    reported = facts.reported
    if facts.losses:
        rank = min(facts.losses)
        text = facts.losses[rank]
        if reported and reported.rank == rank and reported.signal:
            text = text.replace(CAUSE_UNKNOWN, f"it was killed by {reported.signal}")
        return text
    silent = facts.started - set(facts.codes)
    if reported and (reported.rank in silent or reported.rank not in facts.started):
        return str(reported)
    if silent:
        first = next((rank for rank in facts.deaths if rank in silent), min(silent))
        return f"rank {first} was killed or crashed: it wrote no exit code"
    return str(reported) if reported else None


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end(process: subprocess.Popen, family: dict[int, psutil.Process]) -> None:
    """Kills all remaining processes of a run."""
    if process.poll() is None:
        process.kill()
        process.wait()
    for member in family.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(list(family.values()), timeout=10)


def _log(text: str) -> None:
    print(f"restart: {text}", file=sys.stderr, flush=True)
