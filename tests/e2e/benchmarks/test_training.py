"""The benchmark of training steps: its processes, and the table and JSON of a small run."""

import json
import statistics
import subprocess
import sys
import time

import pytest

from benchmarks.training import reaper
from benchmarks.training.programs import ProgramError, Programs, TooSlowError
from tests.support import launch

SMALL = "300,20,7,1000,3,150"


def test_ask_reports_a_program_that_does_not_answer_in_time():
    silent = (
        "import sys, time; from benchmarks.training.worker_protocol import serve; "
        "serve(sys.argv[1], {'sleep': lambda: time.sleep(600)}, rank=0)"
    )
    with Programs() as programs:
        program = programs.start("silent", [sys.executable, "-c", silent, "SOCKET"])
        with pytest.raises(TooSlowError, match=r"^silent .*\b1 s\b"):
            program.ask("sleep", timeout=1)
        program.end()


def test_start_reports_the_last_output_of_a_program_that_ends():
    with Programs() as programs, pytest.raises(ProgramError, match="status 3") as raised:
        programs.start("doomed", [sys.executable, "-c", "print('my last words'); exit(3)"])
    assert "my last words" in str(raised.value)


def test_reaper_kills_only_registered_processes():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    spared = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        child.send_signal(19)  # SIGSTOP
        lines = f"{child.pid}\n{spared.pid}\n-{spared.pid}\n"
        done = subprocess.run([sys.executable, reaper.__file__], input=lines, text=True)
        assert done.returncode == 0
        assert child.wait(timeout=20) == -9
        time.sleep(0.2)
        assert spared.poll() is None
    finally:
        for process in (child, spared):
            process.kill()
            process.wait()


@pytest.mark.launches
@pytest.mark.slow
def test_small_run_prints_its_json_as_a_table(tmp_path):
    path = tmp_path / "results" / "latest.json"
    done = launch.run(
        1, "-m", "benchmarks.training", "--json", path, "--vocab_sizes", SMALL, "--batches",
        "64,32", "--precisions", "fp32", "--rounds", "2", "--steps", "2", "--samples", "2000",
        "--torch_python", tmp_path / "missing", timeout=550,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())
    expected = {
        (program, batch)
        for program in ("ours", "Keras", "ours, 2 ranks", "ours, forward only")
        for batch in (64, 32)
    }
    assert {(row["program"], row["batch"]) for row in found["rows"]} == expected
    table = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    for row, cells in zip(found["rows"], table[1:]):
        assert cells[0] == f"| {row['program']}"
        assert cells[1:4] == ["fp32", str(row["batch"]), f"{row['samples_per_second']:,.0f}"]
        assert cells[-1] == f"{row['share_of_limit']:.0%} |"
        assert len(row["rounds"]) == 2 and row["steps"] == 2
        assert row["samples_per_second"] == pytest.approx(statistics.median(row["rounds"]))
    assert len(table) == 1 + len(expected)
    by_name = {(row["program"], row["batch"]): row for row in found["rows"]}
    ours, keras = by_name["ours", 64], by_name["Keras", 64]
    quotients = [a / b for a, b in zip(ours["rounds"], keras["rounds"])]
    assert ours["ratio"] == pytest.approx(statistics.median(quotients))
    assert ours["best_peer"] == "Keras"
    for program in ("ours", "Keras", "ours, 2 ranks"):
        assert 0.3 < by_name[program, 64]["last_loss"] < 1.5
    assert found["model"]["table_bytes"] == sum(map(int, SMALL.split(","))) * 128 * 4
    assert {"tensorflow", "keras", "horovod"} <= set(found["versions"])
    assert {"processor", "cores", "load_average_at_start"} <= set(found["machine"])
    assert found["missing"][0]["program"] == "TorchRec"
    assert "TorchRec: not measured" in done.stdout
    phases = {one["program"]: one for one in found["phases"]}
    for one in phases.values():
        total = sum(phase["milliseconds"] for phase in one["phases"])
        assert one["step_milliseconds"] == pytest.approx(total)
    assert set(phases) == {"ours", "ours, 2 ranks"}
