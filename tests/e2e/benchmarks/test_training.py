"""The benchmark of whole steps: what it prints and writes follows from what it measured."""

import json
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks.hybrid import VOCAB
from benchmarks.training import interleaved, limit, reaper, report
from benchmarks.training.programs import ProgramError, Programs, TooSlowError
from benchmarks.training.task import Task
from tests.support import launch

SMALL = "300,20,7,1000,3,150"


def test_the_published_models_arithmetic():
    task = Task(vocab_sizes=VOCAB)
    # Multiply-adds of the layers, then of 351 pairs of 128 numbers.
    bottom = 13 * 512 + 512 * 256 + 256 * 128
    top = 479 * 1024 + 1024 * 1024 + 1024 * 512 + 512 * 256 + 256
    assert limit.forward_flops(task) == 2 * (bottom + top + 351 * 128)
    assert limit.train_flops(task) == 3 * limit.forward_flops(task) - 2 * 13 * 512
    assert limit.train_flops(task) / 1e6 == pytest.approx(14.45, abs=0.005)
    limits = {
        "flops_per_second": 2e11,
        "row_reads_per_second": 26e6,
        "row_updates_per_second": 13e6,
    }
    # 26 rows: a microsecond to read, two to rewrite.
    expected = limit.train_flops(task) / 2e11 + 3e-6
    assert limit.seconds_per_sample(task, limits) == pytest.approx(expected)
    expected = limit.forward_flops(task) / 2e11 + 1e-6
    assert limit.seconds_per_sample(task, limits, training=False) == pytest.approx(expected)


class Scripted:
    """A program whose answers are set in advance: calibration first, then one a round."""

    def __init__(self, seconds):
        self.seconds, self.asked = list(seconds), []

    def ask(self, do, **arguments):
        self.asked.append((do, arguments))
        if do in ("measure", "gemm"):
            return [self.seconds.pop(0)], 0.0
        # Of two ranks the slower one counts.
        seconds = self.seconds.pop(0)
        return [{"seconds": seconds / 2, "loss": 0.5}, {"seconds": seconds}], 0.25


def test_medians_and_ratios_are_of_rounds():
    random = np.random.default_rng()
    rounds, steps, batch = 5, 7, 32
    seconds = {name: random.uniform(1, 3, rounds) for name in ("ours", "Keras")}
    flops = random.uniform(1e9, 2e9, (rounds, 2))
    measured_limits = [
        {
            "copy_bytes_per_second": 1e9,
            "row_reads_per_second": 1e6, "row_updates_per_second": 5e5,
            "products": {"fp32": {"A": a}, "bf16": {"A": a / 2, "B": b}},
        }
        for a, b in flops
    ]  # fmt: skip
    programs = {name: Scripted([9.0, *times]) for name, times in seconds.items()}
    machine = Scripted([{}, *measured_limits])
    cases = [interleaved.Case(name, "train", batch) for name in programs]
    measured = interleaved.measure(
        programs, machine, cases, rounds, precisions=["fp32", "bf16"],
        burst=interleaved.Burst(steps=steps), report=lambda line: None,
    )  # fmt: skip
    task = Task(vocab_sizes=(5, 6), precision="bf16", batches=(batch,))
    ours, keras = report.with_best_peer(interleaved.rows(task, measured))
    rates = {name: batch * steps / times for name, times in seconds.items()}
    assert ours["samples_per_second"] == pytest.approx(statistics.median(rates["ours"]))
    assert (
        ours["ratio"]
        == ours["ratios"]["Keras"]
        == pytest.approx(statistics.median(rates["ours"] / rates["Keras"]))
    )
    assert keras["ratios"]["ours"] == pytest.approx(
        statistics.median(rates["Keras"] / rates["ours"])
    )
    # The faster product counts, float32's too, round by round.
    least = limit.train_flops(task) / flops.max(1) + 2 / 1e6 + 2 / 5e5
    assert ours["share_of_limit"] == pytest.approx(statistics.median(rates["ours"] * least))
    assert report.limits_of(task, measured)["flops_per_second"] == pytest.approx(
        statistics.median(flops.max(1))
    )
    assert all(arguments["steps"] == steps for _, arguments in programs["ours"].asked[1:])


class Endless:
    """A program whose steps never end in time, for batches above some size."""

    def __init__(self, size):
        self.size, self.ended = size, False

    def ask(self, do, *, within=None, batch, steps):
        assert not self.ended
        if batch > self.size:
            assert within == 7
            raise TooSlowError("has not answered")
        return [{"seconds": 1.0}], 0.0

    def end(self):
        self.ended = True


def test_a_program_that_is_too_slow_is_left_out():
    ours, endless, told = Scripted([1.0] * 6), Endless(32), []
    limits = {"products": {"fp32": {"A": 1e9}}}
    measured = interleaved.measure(
        {"ours": ours, "TorchRec": endless}, Scripted([{}, limits, limits]),
        [
            interleaved.Case(name, "train", batch)
            for batch in (32, 64) for name in ("ours", "TorchRec")
        ],
        2, precisions=["fp32"], burst=interleaved.Burst(steps=1, timeout=7), report=told.append,
    )  # fmt: skip
    assert endless.ended
    (missing,) = measured.missing
    assert missing["program"] == "TorchRec"
    assert "steps of 64 samples took more than 7 s" in missing["why"]
    assert missing["why"] in told[0]
    assert [(case.program, len(rates)) for case, rates in measured.rates.items()] == [
        ("ours", 2), ("ours", 2),
    ]  # fmt: skip


def test_a_program_that_does_not_answer_in_time(tmp_path):
    silent = (
        "import sys, time; from benchmarks.training.conversation import serve; "
        "serve(sys.argv[1], {'sleep': lambda: time.sleep(600)}, rank=0)"
    )
    with Programs() as programs:
        program = programs.start("silent", [sys.executable, "-c", silent, "SOCKET"])
        with pytest.raises(TooSlowError, match=r"silent has not answered for 1 s"):
            program.ask("sleep", within=1)
        program.end()


def test_float32_knows_no_bfloat16_product():
    limits = {"products": {"fp32": {"A": 1.0, "C": 3.0}, "bf16": {"B": 7.0}}}
    assert interleaved.best_product(limits, "fp32") == (3.0, "C, fp32")
    assert interleaved.best_product(limits, "bf16") == (7.0, "B, bf16")


def test_a_program_that_ends_is_said_with_its_last_words():
    with Programs() as programs, pytest.raises(ProgramError, match="status 3") as raised:
        programs.start("doomed", [sys.executable, "-c", "print('my last words'); exit(3)"])
    assert "my last words" in str(raised.value)


def test_stopped_programs_end_with_the_benchmark():
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
def test_table_and_json_of_a_small_run(tmp_path):
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


def test_what_it_does_not_know_is_an_error():
    done = launch.run(1, "-m", "benchmarks.training", "--precisions", "fp64")
    assert done.returncode == 1
    assert "--precisions: found 'fp64', expected some of fp32,bf16" in done.stderr
