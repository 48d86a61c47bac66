"""What a crash, a hang or a lack of time costs a run on a GPU host: one entry, not the others."""

import json
import time

import pytest

from tests.gpu import processes, run


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """Follows one group of entries to its end; returns {name: error or None}, in order."""
    monkeypatch.setattr(processes, "MODULE", "tests.support.ops.fake_gpu_group")

    def go(*entries, seconds=60, silence=30, code=0):
        results = []
        follower = processes.Follower(
            "group", ["--entries", *entries, "--code", str(code)], tmp_path / "report.jsonl",
            time.monotonic() + seconds, 1, results.append,
        )  # fmt: skip
        follower.silence = silence
        follower.run()
        assert not (tmp_path / "report.jsonl").exists()
        return {entry["name"]: entry.get("error", entry["passed"]) for entry in results}

    return go


def test_every_entry_has_its_own_result(follow):
    assert follow("one", "bad", "two") == {"one": True, "bad": False, "two": True}


def test_a_crash_costs_one_entry(follow):
    found = follow("one", "crash", "two", "half", "broken", "three")
    assert list(found) == ["one", "crash", "two", "half", "broken", "three"]
    assert "ended with code -9" in found["crash"]
    assert "ended with code 1" in found["half"]
    assert found["two"] is found["broken"] is found["three"] is True


def test_a_hang_costs_one_entry_and_two_end_the_group(follow):
    found = follow("one", "hang 1", "two", "hang 2", "three", silence=3)
    assert found["one"] is found["two"] is True
    assert "no news for 3 seconds" in found["hang 1"]
    assert found["three"].startswith("not run: a hang")


def test_nothing_runs_past_the_deadline(follow):
    begin = time.monotonic()
    found = follow("one", "hang", "two", seconds=4)
    assert time.monotonic() - begin < 30
    assert found["one"] is True
    assert "was over" in found["hang"] and found["two"].startswith("not run")
    assert follow("one", seconds=0) == {"group": "there was no time left"}


def test_a_tool_that_found_something_fails_the_group(follow):
    found = follow("one", code=77)
    assert found == {"one": True, "group": "the process ended with code 77"}


def test_results_are_in_the_file_as_they_come(tmp_path, capsys):
    path = tmp_path / "gpu.json"
    results = run.Results(path)
    assert json.loads(path.read_text()) == {"finished": False, "checks": [], "timings": []}
    results.add("checks", {"name": "lookup", "passed": False, "error": "wrong", "seed": 7})
    results.save(device="a GPU")
    written = json.loads(path.read_text())
    assert written["checks"][0]["seed"] == 7 and written["device"] == "a GPU"
    assert "FAILED lookup: wrong (seed 7)" in capsys.readouterr().out
