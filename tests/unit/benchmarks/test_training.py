"""The benchmark of training steps: its arithmetic, statistics and arguments."""

import statistics

import pytest

from benchmarks.hybrid import VOCAB
from benchmarks.training import __main__ as program
from benchmarks.training import interleaved, limit, report, worker_protocol
from benchmarks.training.programs import TooSlowError
from benchmarks.training.task import Task


def test_limit_counts_the_published_models_arithmetic():
    task = Task(vocab_sizes=VOCAB)
    # Multiply-adds of the layers and of 351 pairs of 128 elements.
    bottom = 13 * 512 + 512 * 256 + 256 * 128
    top = 479 * 1024 + 1024 * 1024 + 1024 * 512 + 512 * 256 + 256
    assert limit.forward_flops(task) == 2 * (bottom + top + 351 * 128)
    assert limit.train_flops(task) == 3 * limit.forward_flops(task) - 2 * 13 * 512
    assert limit.train_flops(task) / 1e6 == pytest.approx(14.45, abs=0.005)
    limits = {"flops_per_second": 2e11, "row_reads_per_second": 26e6,
              "row_updates_per_second": 13e6}  # fmt: skip
    # 26 rows: one microsecond to read, two to rewrite.
    expected = limit.train_flops(task) / 2e11 + 3e-6
    assert limit.seconds_per_sample(task, limits) == pytest.approx(expected)
    expected = limit.forward_flops(task) / 2e11 + 1e-6
    assert limit.seconds_per_sample(task, limits, training=False) == pytest.approx(expected)


class Scripted:
    """A program with scripted answers: the calibration, then one per round."""

    def __init__(self, seconds):
        self.seconds, self.asked = list(seconds), []

    def ask(self, do, **arguments):
        self.asked.append((do, arguments))
        if do in ("measure", "gemm"):
            return [self.seconds.pop(0)], 0.0
        # Of two ranks the slower counts.
        seconds = self.seconds.pop(0)
        return [{"seconds": seconds / 2, "loss": 0.5}, {"seconds": seconds}], 0.25


def test_rows_have_medians_and_ratios_of_rounds(rng):
    rounds, steps, batch = 5, 7, 32
    seconds = {name: rng.uniform(1, 3, rounds) for name in ("ours", "Keras")}
    flops = rng.uniform(1e9, 2e9, (rounds, 2))
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
    ratio = statistics.median(rates["ours"] / rates["Keras"])
    assert ours["ratio"] == ours["ratios"]["Keras"] == pytest.approx(ratio)
    ratio = statistics.median(rates["Keras"] / rates["ours"])
    assert keras["ratios"]["ours"] == pytest.approx(ratio)
    # Each round counts the faster product, float32's included.
    least = limit.train_flops(task) / flops.max(1) + 2 / 1e6 + 2 / 5e5
    assert ours["share_of_limit"] == pytest.approx(statistics.median(rates["ours"] * least))
    assert report.limits_of(task, measured)["flops_per_second"] == pytest.approx(
        statistics.median(flops.max(1))
    )
    assert all(arguments["steps"] == steps for _, arguments in programs["ours"].asked[1:])


class Endless:
    """A program that is too slow for batches above a size."""

    def __init__(self, size):
        self.size, self.ended = size, False

    def ask(self, do, *, timeout=None, batch, steps):
        assert not self.ended
        if batch > self.size:
            assert timeout == 7
            raise TooSlowError("did not answer")
        return [{"seconds": 1.0}], 0.0

    def end(self):
        self.ended = True


def test_measure_drops_a_program_that_is_too_slow():
    ours, endless, lines = Scripted([1.0] * 6), Endless(32), []
    limits = {"products": {"fp32": {"A": 1e9}}}
    measured = interleaved.measure(
        {"ours": ours, "TorchRec": endless}, Scripted([{}, limits, limits]),
        [
            interleaved.Case(name, "train", batch)
            for batch in (32, 64) for name in ("ours", "TorchRec")
        ],
        2, precisions=["fp32"], burst=interleaved.Burst(steps=1, timeout=7), report=lines.append,
    )  # fmt: skip
    assert endless.ended
    (missing,) = measured.missing
    assert missing["program"] == "TorchRec"
    assert "64 samples" in missing["why"] and "7 s" in missing["why"]
    assert missing["why"] in lines[0]
    assert [(case.program, len(rates)) for case, rates in measured.rates.items()] == [
        ("ours", 2), ("ours", 2),
    ]  # fmt: skip


def test_best_product_of_float32_ignores_bfloat16():
    limits = {"products": {"fp32": {"A": 1.0, "C": 3.0}, "bf16": {"B": 7.0}}}
    assert interleaved.best_product(limits, "fp32") == (3.0, "C, fp32")
    assert interleaved.best_product(limits, "bf16") == (7.0, "B, bf16")


def test_burst_times_all_but_the_first_step():
    calls = []
    found = worker_protocol.burst(lambda: calls.append("s"), lambda: calls.append("w"), 3)
    assert calls == ["s", "w", "s", "s", "s", "w"]
    assert found["steps"] == 3 and found["seconds"] >= 0


@pytest.mark.parametrize(
    ("flag", "value"), [("precisions", "fp64"), ("programs", "theirs"), ("samples", "9")]
)
def test_main_refuses_a_wrong_flag(flag, value):
    with pytest.raises(SystemExit, match=rf"--{flag}: .*\b{value}\b"):
        program.main([f"--{flag}={value}"])
