"""The launcher that starts a job again: requests to stop, and wrong arguments."""

import signal
import subprocess
import sys
import time

import pytest

from tests import launch

# A rank that makes itself known only a while after it was started.
LATE = """
import pathlib, signal, sys, time
from training import status

pathlib.Path(sys.argv[1]).touch()
while not pathlib.Path(sys.argv[2]).exists():
    time.sleep(0.05)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
status.running(0)
time.sleep(60)
"""


def restart(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "training.restart", *map(str, arguments)], cwd=launch.ROOT,
        env=launch.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_rank_that_is_still_starting_is_asked_to_stop_too(tmp_path):
    started, go_on = tmp_path / "started", tmp_path / "go_on"
    process = restart(
        "--grace=45", "--", sys.executable, "-c", LATE, started, go_on, "--checkpoint_dir=x"
    )
    deadline = time.monotonic() + 200
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "asking the ranks to stop" in process.stderr.readline()
    go_on.touch()
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "have not stopped within" not in error


@pytest.mark.parametrize("text", ["-1", "two", "1.5"])
def test_a_wrong_number_is_refused(text):
    process = restart(f"--max_restarts={text}", "--", "main.py", "--checkpoint_dir=x")
    _, error = process.communicate(timeout=300)
    assert process.returncode == 2
    assert f"--max_restarts: {text}: expected a whole number, 0 or more" in error
