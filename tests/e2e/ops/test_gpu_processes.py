"""How `tests.gpu.run` handles crashes, hangs and time limits of its processes."""

import json
import time

import pytest

from tests.gpu import processes, run


@pytest.fixture
def run_group(tmp_path, monkeypatch):
    """Returns a function that runs fake entries and returns {name: error or whether it passed}."""
    monkeypatch.setattr(processes, "MODULE", "tests.support.ops.fake_gpu_group")

    def go(*entries, seconds=60, timeout=30, code=0):
        results, report = [], tmp_path / "report.jsonl"
        runner = processes.GroupRunner(
            "group", ["--entries", *entries, "--code", str(code)], report,
            time.monotonic() + seconds, 1, results.append,
        )  # fmt: skip
        runner.timeout = timeout
        runner.run()
        assert not report.exists()
        return {entry["name"]: entry.get("error", entry["passed"]) for entry in results}

    return go


def test_group_runner_reports_every_entry_after_failures_and_crashes(run_group):
    found = run_group("one", "bad", "crash", "two", "partial", "broken", "three")
    assert list(found) == ["one", "bad", "crash", "two", "partial", "broken", "three"]
    assert found["bad"] is False
    assert "code -9" in found["crash"]
    assert "code 1" in found["partial"]
    assert found["one"] is found["two"] is found["broken"] is found["three"] is True


def test_group_runner_skips_a_hanging_entry_and_stops_after_two(run_group):
    found = run_group("one", "hang 1", "two", "hang 2", "three", timeout=1)
    assert found["one"] is found["two"] is True
    assert "hang" in found["hang 1"] and "1 s" in found["hang 1"]
    assert found["three"].startswith("not run")


def test_group_runner_stops_at_the_deadline(run_group):
    begin = time.monotonic()
    found = run_group("one", "hang", "two", seconds=2)
    assert time.monotonic() - begin < 30
    assert found["one"] is True
    assert "time limit" in found["hang"] and found["two"].startswith("not run")
    assert list(run_group("one", seconds=0)) == ["group"]


def test_group_runner_reports_the_exit_code_of_the_sanitizer(run_group):
    found = run_group("one", code=77)
    assert found["one"] is True
    assert "code 77" in found["group"]


def test_results_writes_the_file_after_every_result(tmp_path, capsys):
    path = tmp_path / "gpu.json"
    results = run.Results(path)
    assert json.loads(path.read_text()) == {"finished": False, "checks": [], "timings": []}
    results.add("checks", {"name": "lookup", "passed": False, "error": "wrong", "seed": 7})
    results.save(device="a GPU")
    written = json.loads(path.read_text())
    assert written["checks"][0]["seed"] == 7 and written["device"] == "a GPU"
    printed = capsys.readouterr().out
    assert "lookup" in printed and "wrong" in printed and "seed 7" in printed
