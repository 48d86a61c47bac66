"""Ids, order of measurements, time limit and report of the GPU step benchmark."""

import types

import numpy as np
import pytest

from benchmarks import gpu_step, gpu_step_plan
from benchmarks.gpu_step_floor import Limits, Work, floors, mlp_work, step_work
from tests.gpu.random_ids import EXPONENT, KINDS, draw_ids, hottest_shares

PHASES = ("lookup", "top forward", "row update")


@pytest.mark.parametrize("kind", KINDS)
def test_draw_ids_stays_within_tables_and_skews(kind, rng):
    sizes = [3, 1, 1000, 39_884_406]
    ids = draw_ids(rng, sizes, 5000, kind)
    assert ids.dtype == np.int32 and ids.shape == (5000, 4) and ids.flags.c_contiguous
    assert np.all(ids >= 0) and np.all(ids < sizes)
    distinct = len(np.unique(ids[:, 2]))
    assert {"uniform": distinct > 900, "skewed": 1 < distinct < 900, "one row": distinct == 1}[kind]


def test_draw_ids_rejects_an_unknown_kind(rng):
    with pytest.raises(ValueError, match="expected one of uniform, skewed, one row, found 'hot'"):
        draw_ids(rng, [3], 2, "hot")


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 1000, 7919 * 4])
def test_skewed_ids_follow_the_power_law_on_scattered_rows(rows, rng):
    batch = 100_000
    ids = draw_ids(rng, [rows], batch, "skewed")[:, 0]
    # The probability of popularity k, where those beyond the table start again at its first row.
    k = np.arange(1, 2_000_000, dtype=np.float64)
    weights = np.bincount((k % rows).astype(int), k**-EXPONENT, rows)
    tail = k[-1] ** (1 - EXPONENT) / (EXPONENT - 1)
    expected = np.sort((weights + tail / rows) / (weights.sum() + tail))
    found = np.bincount(ids, minlength=rows) / batch
    hot = slice(-5, None)
    deviation = np.sqrt(expected[hot] * (1 - expected[hot]) / batch)
    np.testing.assert_array_less(
        np.abs(np.sort(found)[hot] - expected[hot]), 6 * deviation + 1e-3 * expected[hot] + 1e-9
    )
    if rows >= 1000:  # popular rows are far apart
        popular = np.sort(np.argsort(found)[hot])
        assert np.diff(popular).min() > rows // 20


def test_hottest_shares_counts_the_most_frequent_row_of_each_table():
    ids = np.array([[0, 5], [1, 5], [0, 5], [0, 2]])
    assert hottest_shares(ids) == [0.75, 0.75]
    assert hottest_shares(ids[:3]) == [pytest.approx(2 / 3), 1.0]


def test_plan_measures_whole_steps_first(rng):
    step = types.SimpleNamespace(phases=lambda: dict.fromkeys(PHASES))
    names = [name for name, _ in gpu_step_plan.Measurements(step, None, rng).plan()]
    wholes = [
        "step", "PyTorch", "step with PyTorch's products",
        "step, row update beside bottom backward", "step, lookup beside bottom forward",
        "step, both beside", "step, sorted update",
    ]  # fmt: skip
    assert names[:14] == [(kind, what) for what in wholes for kind in ("uniform", "skewed")]
    assert names[14:] == [
        (kind, phase, what)
        for kind, phases in (("uniform", PHASES), ("skewed", gpu_step_plan.ROW_PHASES))
        for phase in phases
        for what in ("alone", "without")
    ]  # fmt: skip


def test_mlp_work_counts_every_product_and_activation_once(rng):
    batch, widths = int(rng.integers(1, 9)), [int(w) for w in rng.integers(1, 50, 4)]
    layers = list(zip(widths, widths[1:]))
    weights = 4 * sum(a * b + b for a, b in layers)
    forward, backward = mlp_work(batch, widths, 2, input_gradient=True)
    assert forward.flop == sum(2 * batch * a * b for a, b in layers)
    assert forward.bytes == weights + sum(2 * batch * (a + b) for a, b in layers)
    # A layer's gradient is read, its input too, and the input's gradient is written.
    assert backward.flop == sum(4 * batch * a * b for a, b in layers)
    assert backward.bytes == 2 * weights + sum(2 * batch * (a + b + a) for a, b in layers)
    _, without = mlp_work(batch, widths, 2, input_gradient=False)
    assert backward.flop - without.flop == 2 * batch * widths[0] * widths[1]
    assert backward.bytes - without.bytes == 2 * batch * widths[0]


def test_step_work_of_the_default_model():
    bottom, top = (13, 512, 256, 128), (480, 1024, 1024, 512, 256, 1)
    work = step_work(65_536, 26, 128, 1_000_000, bottom, top, 2)
    products = 2 * sum(a * b for widths in (bottom, top[:-1]) for a, b in zip(widths, widths[1:]))
    flop = sum(one.flop for one in work.values())
    # Three products per layer, but for the gradient of the dense features.
    assert flop == 65_536 * (3 * products - 2 * 13 * 512)
    assert 925e9 < flop < 935e9
    ids, vectors, rows = 65_536 * 26 * 4, 65_536 * 26 * 128 * 2, 1_000_000 * 128 * 4
    assert work["lookup"].bytes == ids + vectors + rows
    assert work["row update"].bytes == ids + vectors + 2 * rows
    bottom_rows, output = 65_536 * 128 * 2, 65_536 * 480 * 2
    assert work["interaction forward"].bytes == vectors + bottom_rows + output
    assert work["interaction backward"].bytes == 2 * (vectors + bottom_rows) + output


def test_floors_take_the_larger_time_of_each_phase_and_their_sum():
    work = {"a": Work(2e9, 1e12), "b": Work(8e9, 1e12)}
    assert floors(Limits(2e12, 5e14), work) == {"a": 2.0, "b": 4.0, "step": 6.0}


def fake_plan(clock, seconds):
    """Measurements that take some seconds of a fake clock; None: it fails after a second."""

    def measure(taken):
        clock.now += 1 if taken is None else taken
        if taken is None:
            raise RuntimeError("out of memory\nin detail")
        return taken * 1e3

    return [((str(k),), lambda taken=taken: measure(taken)) for k, taken in enumerate(seconds)]


@pytest.mark.parametrize(
    ("budget", "seconds", "taken"),
    [
        (10, [2, 3, 3, 3], 3),  # the fourth could exceed the 2 seconds that remain
        (12, [2, 3, 3, 3], 4),
        (0, [1], 0),
        (3, [5, 1], 1),
        (float("inf"), [5, 1], 2),
    ],
)
def test_run_plan_stops_before_the_budget_is_exceeded(budget, seconds, taken, monkeypatch):
    clock, recorded = types.SimpleNamespace(now=100.0), []
    monkeypatch.setattr(gpu_step_plan.time, "monotonic", lambda: clock.now)
    left = gpu_step_plan.run_plan(
        fake_plan(clock, seconds), lambda: budget - (clock.now - 100),
        lambda name, value: recorded.append((name, value)),
    )  # fmt: skip
    assert recorded == [((str(k),), seconds[k] * 1e3) for k in range(taken)]
    assert left == [(str(k),) for k in range(taken, len(seconds))]


def test_run_plan_records_a_failure_and_goes_on():
    results = {}
    plan = fake_plan(types.SimpleNamespace(now=0.0), [1, None, 2])
    assert gpu_step_plan.run_plan(plan, lambda: 1e9, results.__setitem__) == []
    assert results == {("0",): 1e3, ("1",): "RuntimeError: out of memory", ("2",): 2e3}


def test_figures_and_lines_of_a_report(capsys):
    results = {
        ("uniform", "step"): 4.0,
        ("uniform", "lookup", "alone"): 0.5,
        ("uniform", "lookup", "without"): 3.75,
        ("skewed", "step"): "RuntimeError: broken",
    }
    assert gpu_step.figures(results) == {
        "uniform": {"step": 4.0, "pieces": {"lookup": {"alone": 0.5, "without": 3.75}}},
        "skewed": {"step": "RuntimeError: broken"},
    }
    for name, value in results.items():
        gpu_step.show(name, value, 65_536, results[(name[0], "step")], 0.25)
    step, alone, without, failed = capsys.readouterr().out.splitlines()
    assert "4.000 ms" in step and "16.38 M samples/s" in step
    assert "6% of the limits (0.250 ms)" in step
    assert "lookup alone" in alone and "0.500 ms" in alone and "50% of the limits" in alone
    assert "3.750 ms" in without and "0.250 ms of the step" in without
    assert "limits" not in without
    assert "FAILED: RuntimeError: broken" in failed


class FakeGpu:
    """PyTorch's interface to a GPU; logs events. A call takes 3 ms, an id's copy 50 ms."""

    def __init__(self):
        self.log, self.now, self.streams, self.cuda = [], 0.0, [object()], self

    class Event:
        def __init__(self, gpu):
            self._gpu = gpu

        def record(self):
            self._gpu.log.append("event")
            self.at = self._gpu.now

        def elapsed_time(self, end):
            return end.at - self.at

    class Stream:
        def wait_stream(self, stream):
            pass

    class Context:
        def __init__(self, enter, leave):
            self._enter, self._leave = enter, leave

        def __enter__(self):
            self._enter()

        def __exit__(self, *error):
            self._leave()

    def current_stream(self):
        return FakeGpu.Stream()

    def stream(self, stream):
        return self.Context(lambda: self.streams.append(stream), self.streams.pop)

    def synchronize(self):
        self.log.append("synchronize")

    def graph(self, graph, stream):
        def enter():
            self.log.append("capture")
            self.streams.append(stream)

        return self.Context(enter, self.streams.pop)

    def CUDAGraph(self):
        return types.SimpleNamespace(replay=lambda: self.run("replay", 3.0))

    def run(self, what, taken):
        self.log.append(what)
        self.now += taken


@pytest.fixture
def gpu(monkeypatch):
    fake = FakeGpu()
    fake.Event = lambda enable_timing: FakeGpu.Event(fake)
    monkeypatch.setattr(gpu_step_plan, "hold", lambda seconds: fake.log.append("hold"))
    return fake


def test_graph_timer_times_replays_without_the_copies_of_ids(gpu):
    timer, used = gpu_step_plan.GraphTimer(gpu, repeats=2), []

    def phase(name):
        used.append(gpu.streams[-1])
        gpu.log.append(name)

    phases = [lambda: phase("a"), lambda: phase("b")]
    assert timer.phases(phases, lambda k: gpu.run(f"ids {k}", 50.0)) == 3.0
    assert gpu.log == [
        "a", "b", "a", "b", "synchronize", "capture", "a", "b", "hold",
        *(word for k in range(5) for word in (f"ids {k}", "event", "replay", "event")),
        "synchronize",
    ]  # fmt: skip
    assert len(set(used)) == 1 and used[0] is not gpu.streams[0]  # warmed up where captured


def test_graph_timer_times_calls_as_they_are(gpu):
    timer = gpu_step_plan.GraphTimer(gpu, repeats=40)
    assert timer.call(lambda: gpu.run("call", 7.0), lambda k: gpu.run("ids", 50.0)) == 7.0
    assert gpu.log.count("call") == 13 and "capture" not in gpu.log


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--budget", "0"], "--budget: expected more than 0, found 0"),
        (["--batch", "-1"], "--batch: expected more than 0, found -1"),
        (["--precision", "bfloat16"], "--precision"),
        (["--json", "/missing/step.json"], "folder /missing not found"),
    ],
)
def test_parse_rejects_wrong_values(arguments, found, capsys):
    with pytest.raises(SystemExit):
        gpu_step.parse(arguments)
    assert found in capsys.readouterr().err.splitlines()[-1]
