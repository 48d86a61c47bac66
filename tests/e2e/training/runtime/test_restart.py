"""The launcher that starts a job again: requests to stop, and wrong arguments."""

import signal
import subprocess
import sys
import time

import pytest

from tests.support import launch
from training.runtime import launcher_report, rank_status
from training.runtime.errors import EXIT_INTERRUPTED, EXIT_RANK_LOST, EXIT_USER_ERROR
from training.runtime.rank_states import death
from training.runtime.restart import _Facts, _outcome

# A rank that makes itself known only a while after it was started.
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


KILLED = launcher_report.Failure(1, 137, "SIGKILL")


def verdict(code=1, stopped=False, **known):
    """Returns what `restart` concludes from what is known of three ranks."""
    facts = {"started": {0, 1, 2}, "codes": {}, "losses": {}, "deaths": [], "reported": None}
    return _outcome(code, _Facts(**{**facts, **known}), stopped)


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        # The watch of the others knows, the launcher adds the signal.
        ({"codes": {0: 4, 2: 4}, "losses": {1: "rank 1 died"}}, "rank 1 died"),
        ({"codes": {0: 4}, "losses": {1: f"rank 1 {death('step 7')}"}, "deaths": [0, 2, 1],
          "reported": KILLED}, "rank 1 died during step 7: it was killed by SIGKILL"),
        ({"losses": {1: f"rank 1 {death('step 7')}"}, "reported": launcher_report.Failure(0, 4)},
         "rank 1 died during step 7: it was killed, or it crashed"),
        ({"losses": {2: "rank 2 hangs"}, "reported": KILLED}, "rank 2 hangs"),
        # Without a watch, such as during the start.
        ({"reported": KILLED}, "rank 1 was killed by SIGKILL"),
        ({"codes": {0: 4, 2: 4}}, "rank 1 was killed or crashed: it left no exit code"),
        ({"deaths": [2, 1, 0]}, "rank 2 was killed or crashed: it left no exit code"),
        ({"codes": {0: 4}, "deaths": [0, 2, 1]}, "rank 2 was killed or crashed"),
        # A rank of another host leaves nothing here.
        ({"started": {0}, "codes": {0: 4}, "reported": KILLED}, "rank 1 was killed by SIGKILL"),
        # The launcher names a rank that ended after the lost one.
        ({"codes": {0: 4, 2: 4}, "reported": launcher_report.Failure(0, 4)}, "rank 1 was killed"),
        ({"codes": {0: 1, 1: 4, 2: 4}, "reported": launcher_report.Failure(0, 1)},
         "rank 0 ended with exit code 1"),
        ({"started": set()}, "the job ended with exit code 1"),
    ],
)  # fmt: skip
def test_the_lost_rank_is_named(known, reason):
    code, said = verdict(**known)
    assert code == EXIT_RANK_LOST
    assert said.startswith(reason)


@pytest.mark.parametrize(
    ("known", "code"),
    [
        ({"codes": {1: 2}, "losses": {1: "rank 1 died"}}, EXIT_USER_ERROR),
        ({"stopped": True, "losses": {1: "rank 1 died"}}, EXIT_INTERRUPTED),
        ({"code": 2, "started": set()}, EXIT_USER_ERROR),
    ],
)
def test_an_end_that_is_final_is_no_lost_rank(known, code):
    assert verdict(**known)[0] == code


def test_losses_are_read_as_ranks_have_left_them(tmp_path, monkeypatch):
    monkeypatch.setenv(rank_status.VARIABLE, str(tmp_path))
    rank_status.record_loss(0, 12, "rank 12 (process 7 on n) died")
    rank_status.record_exit(0, 4)
    assert rank_status.read_losses(tmp_path) == {12: "rank 12 (process 7 on n) died"}
    assert rank_status.read(tmp_path, "code") == {0: 4}


PRINTS = """
import sys
sys.stderr.write("a line\\n" * 30000)
sys.stderr.write("Process name: 1\\nExit code: 137\\n")
sys.exit(1)
"""


def test_a_launchers_words_are_passed_on_and_read():
    process = restart("--max_restarts=0", "--", sys.executable, "-c", PRINTS, "--checkpoint_dir=x")
    _, error = process.communicate(timeout=300)
    assert process.returncode == EXIT_RANK_LOST
    *lines, name, code, last = error.splitlines()
    assert lines == ["a line"] * 30000
    assert (name, code) == ("Process name: 1", "Exit code: 137")
    assert last == "restart: rank 1 was killed by SIGKILL: given up after 0 restarts"


def test_a_reader_that_goes_away_ends_no_job():
    process = restart("--max_restarts=0", "--", sys.executable, "-c", PRINTS, "--checkpoint_dir=x")
    process.stderr.close()
    process.wait(timeout=300)
