"""Conclusions of `training.runtime.restart` about a run, its arguments, and the status files."""

import pytest

from training.runtime import launcher_report, rank_status, restart
from training.runtime.errors import EXIT_INTERRUPTED, EXIT_RANK_LOST, EXIT_USER_ERROR
from training.runtime.rank_states import death

KILLED = launcher_report.Failure(1, 137, "SIGKILL")


def outcome(code=1, stopped=False, **known):
    """Returns (exit code, reason) of a run of three ranks, given the known facts."""
    facts = {"started": {0, 1, 2}, "codes": {}, "losses": {}, "deaths": [], "reported": None}
    return restart._outcome(code, restart._Facts(**{**facts, **known}), stopped)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        # The watchdog of the others names the rank; the launcher's report adds the signal.
        ({"codes": {0: 4, 2: 4}, "losses": {1: "rank 1 died"}}, ["rank 1 died"]),
        ({"codes": {0: 4}, "losses": {1: f"rank 1 {death('step 7')}"}, "deaths": [0, 2, 1],
          "reported": KILLED}, ["rank 1 died", "step 7", "SIGKILL"]),
        ({"losses": {1: f"rank 1 {death('step 7')}"}, "reported": launcher_report.Failure(0, 4)},
         ["rank 1 died", "step 7"]),
        ({"losses": {2: "rank 2 hangs"}, "reported": KILLED}, ["rank 2 hangs"]),
        # Without a watchdog, such as during the start.
        ({"reported": KILLED}, ["rank 1 ", "SIGKILL"]),
        ({"codes": {0: 4, 2: 4}}, ["rank 1 "]),
        ({"deaths": [2, 1, 0]}, ["rank 2 "]),
        ({"codes": {0: 4}, "deaths": [0, 2, 1]}, ["rank 2 "]),
        # A rank of another host has no status file here.
        ({"started": {0}, "codes": {0: 4}, "reported": KILLED}, ["rank 1 ", "SIGKILL"]),
        # The launcher reports a rank that ended after the lost one.
        ({"codes": {0: 4, 2: 4}, "reported": launcher_report.Failure(0, 4)}, ["rank 1 "]),
        ({"codes": {0: 1, 1: 4, 2: 4}, "reported": launcher_report.Failure(0, 1)},
         ["rank 0 ", "exit code 1"]),
        ({"started": set()}, ["exit code 1"]),
    ],
)  # fmt: skip
def test_outcome_names_the_lost_rank(known, words):
    code, reason = outcome(**known)
    assert code == EXIT_RANK_LOST
    assert reason.startswith(words[0]) or len(words) == 1
    for word in words:
        assert word in reason


@pytest.mark.parametrize(
    ("known", "code"),
    [
        ({"codes": {1: 2}, "losses": {1: "rank 1 died"}}, EXIT_USER_ERROR),
        ({"stopped": True, "losses": {1: "rank 1 died"}}, EXIT_INTERRUPTED),
        ({"code": 2, "started": set()}, EXIT_USER_ERROR),
    ],
)
def test_outcome_keeps_a_final_exit_code(known, code):
    assert outcome(**known)[0] == code


def test_status_files_round_trip(tmp_path, monkeypatch):
    monkeypatch.setenv(rank_status.VARIABLE, str(tmp_path))
    rank_status.record_loss(0, 12, "rank 12 (process 7 on n) died")
    rank_status.record_exit(0, 4)
    assert rank_status.read_losses(tmp_path) == {12: "rank 12 (process 7 on n) died"}
    assert rank_status.read(tmp_path, "code") == {0: 4}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *((["--max_restarts", text, "--", "main.py", "--checkpoint_dir=x"],
           ["--max_restarts", f"{text}:"]) for text in ("-1", "two", "1.5")),
        (["--", "horovodrun", "-np", "2", "main.py"], ["--checkpoint_dir"]),
        (["--"], ["command"]),
    ],
)  # fmt: skip
def test_main_refuses_wrong_arguments(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        restart.main([*arguments])
    assert caught.value.code == EXIT_USER_ERROR
    line = capsys.readouterr().err.splitlines()[-1]
    for word in words:
        assert word in line
