"""`python3 -m training.restart` as a process: requests to stop, restarts, forwarded output."""

import signal
import subprocess
import sys
import time

import pytest

from tests.support import launch
from training.runtime.errors import EXIT_RANK_LOST, EXIT_USER_ERROR

# A rank that registers itself only some time after its start.
LATE = """
import pathlib, signal, sys, time
from training.runtime import rank_status

pathlib.Path(sys.argv[1]).touch()
while not pathlib.Path(sys.argv[2]).exists():
    time.sleep(0.05)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
rank_status.record_start(0)
time.sleep(60)
"""
PRINTS = """
import sys
sys.stderr.write("a line\\n" * 30000)
sys.stderr.write("Process name: 1\\nExit code: 137\\n")
sys.exit(1)
"""


def restart(*arguments):
    """Starts `training.restart` with options and, after "--", Python code and its arguments."""
    split = arguments.index("--") + 1
    command = [*arguments[:split], sys.executable, "-c", *arguments[split:], "--checkpoint_dir=x"]
    return subprocess.Popen(
        [sys.executable, "-m", "training.restart", *map(str, command)], cwd=launch.ROOT,
        env=launch.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_rank_that_is_still_starting_receives_the_request_to_stop(tmp_path, number):
    started, proceed = tmp_path / "started", tmp_path / "proceed"
    process = restart("--grace=45", "--", LATE, started, proceed)
    deadline = time.monotonic() + 200
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.stderr.readline().startswith("restart: ")
    proceed.touch()
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "45 s" not in error  # The grace period is not over.


def test_the_launchers_output_is_forwarded_and_parsed():
    process = restart("--max_restarts=0", "--", PRINTS)
    _, error = process.communicate(timeout=300)
    assert process.returncode == EXIT_RANK_LOST
    *lines, name, code, last = error.splitlines()
    assert lines == ["a line"] * 30000
    assert (name, code) == ("Process name: 1", "Exit code: 137")
    for word in ("restart: rank 1 ", "SIGKILL", "0 restarts"):
        assert word in last


def test_the_job_survives_a_closed_standard_error():
    process = restart("--max_restarts=0", "--", PRINTS)
    process.stderr.close()
    assert process.wait(timeout=300) == EXIT_RANK_LOST


def test_gives_up_after_the_last_restart():
    process = restart("--max_restarts=2", "--", "import os; os.kill(os.getpid(), 9)")
    _, error = process.communicate(timeout=300)
    assert process.returncode == EXIT_RANK_LOST
    for line, words in zip(error.splitlines(), ("restart 1 of 2", "restart 2 of 2", "2 restarts")):
        assert words in line


def test_a_user_error_is_not_restarted():
    main = "import main, sys; main.main(['main.py', '--lr=x']); sys.exit(1)"  # As horovodrun.
    process = restart("--max_restarts=1", "--", main)
    _, error = process.communicate(timeout=300)
    assert process.returncode == EXIT_USER_ERROR
    assert error.splitlines()[-1].startswith("restart: the job ended with ")
