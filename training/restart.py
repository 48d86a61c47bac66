"""Starts a job again when a rank is lost: it resumes from its newest checkpoint.

    python3 -m training.restart --max_restarts 3 -- \
        horovodrun -np 8 ./hvd_wrapper.sh python3 main.py --checkpoint_dir=DIR ...

A job that ends by itself, on a wrong flag, a diverged loss or a request to stop, is not started
again. SIGTERM and SIGINT go to the ranks themselves, which finish their step and write a
checkpoint: horovodrun would leave them five seconds.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import psutil

from training import status
from training.errors import (
    EXIT_DIVERGED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_RANK_LOST,
    EXIT_USER_ERROR,
)

# A job that ended so would end so again.
_FINAL = {
    EXIT_USER_ERROR: "an error that the user must put right",
    EXIT_DIVERGED: "a diverged loss",
    EXIT_INTERRUPTED: "a request to stop",
}
_POLL_SECONDS = 0.2


def main(arguments=None):
    """Runs the command; returns the exit code of its last run."""
    parser = argparse.ArgumentParser(
        prog="python3 -m training.restart",
        description="Starts a job again when a rank is lost.",
    )
    add = parser.add_argument
    add("--max_restarts", type=_count, default=3, metavar="K", help="how often to start again [3]")
    add("--grace", type=_count, default=300, metavar="SECONDS",
        help="time for the last checkpoint after SIGTERM or SIGINT [300]")  # fmt: skip
    add("command", nargs=argparse.REMAINDER, help="-- and the command that starts the job")
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("no command: give -- and the command that starts the job")
    if not any(word.startswith("--checkpoint_dir") for word in command) and not any(
        word.startswith("--flagfile") for word in command
    ):
        parser.error("the command has no --checkpoint_dir: a restart would begin from nothing")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    for restart in range(options.max_restarts + 1):
        code, reason = _run(command, stopping, options.grace)
        if code == EXIT_OK or reason in _FINAL.values():
            if code != EXIT_OK:
                _say(f"the job ended by {reason}: not started again")
            return code
        if restart == options.max_restarts:
            _say(f"{reason}: given up after {restart} restarts")
            return code
        _say(f"{reason}: restart {restart + 1} of {options.max_restarts}")
    return EXIT_RANK_LOST


def _count(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number, 0 or more")
    return int(text)


def _run(command, stopping, grace):
    """Runs the command once; returns (exit code, why it ended)."""
    if stopping.is_set():
        return EXIT_INTERRUPTED, _FINAL[EXIT_INTERRUPTED]
    with tempfile.TemporaryDirectory(prefix="dlrm-status-") as folder:
        try:
            process = subprocess.Popen(
                command, env={**os.environ, status.VARIABLE: folder}, start_new_session=True
            )
        except OSError as error:
            _say(f"{command[0]}: {error.strerror}")
            return EXIT_USER_ERROR, _FINAL[EXIT_USER_ERROR]
        family = {}
        try:
            _wait(process, folder, stopping, grace, family)
        finally:
            _end(process, family)
        codes = status.read(folder, "code")
        return _verdict(process.returncode, codes, status.read(folder, "pid"), stopping.is_set())


def _wait(process, folder, stopping, grace, family):
    """Waits for the end of the job; hands a request to stop to each of its ranks once.

    `family` gathers the job's processes: once their parents are gone nothing tells them apart.
    """
    deadline, asked = None, set()
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                family[child.pid] = child
        if stopping.is_set():
            if deadline is None:
                deadline = time.monotonic() + grace
                _say("asking the ranks to stop")
            # Again and again: a rank may only be starting.
            for pid in set(status.read(folder, "pid").values()) - asked:
                if pid in family or pid == process.pid:
                    asked.add(pid)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
        if deadline is not None and time.monotonic() > deadline:
            _say(f"the ranks have not stopped within {grace} s")
            return
        time.sleep(_POLL_SECONDS)


def _verdict(code, codes, started, stopped):
    """Returns (exit code, why) of a run from what its ranks have left."""
    if code == EXIT_OK:
        return EXIT_OK, "done"
    if stopped:
        return EXIT_INTERRUPTED, _FINAL[EXIT_INTERRUPTED]
    for final, reason in _FINAL.items():
        if final in codes.values():
            return final, reason
    if code in _FINAL and not started:
        return code, _FINAL[code]
    gone = sorted(set(started) - set(codes))
    if gone:
        return EXIT_RANK_LOST, f"rank {gone[0]} ended without a word"
    return EXIT_RANK_LOST, f"the job ended with exit code {code}"


def _end(process, family):
    """Ends what is left of a run, so that nothing of it disturbs the next."""
    if process.poll() is None:
        process.kill()
        process.wait()
    for member in family.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(list(family.values()), timeout=10)


def _say(text):
    print(f"restart: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
