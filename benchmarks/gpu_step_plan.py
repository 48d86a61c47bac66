"""The measurements of `gpu_step`: which, in which order, and how each is timed."""

# PyTorch is not installed in the project's default environment.
# pyright: reportMissingImports=false

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import gpu_step_phases as step_phases
from benchmarks.gpu_step_floor import Limits, floors, step_work
from benchmarks.gpu_step_phases import DENSE, DIM, FUSED, TORCH, PlainStep, Step
from tests.gpu.clock import hold
from tests.gpu.random_ids import draw_ids, hottest_shares

ID_SETS = 4
KINDS = ("uniform", "skewed")
#: Phases whose time depends on the ids.
ROW_PHASES = ("lookup", "row update")
#: {measurement: row phases on a second stream}.
OVERLAPPED = {
    "step, row update beside bottom backward": ("row update",),
    "step, lookup beside bottom forward": ("lookup",),
    "step, both beside": ("lookup", "row update"),
}
WITH_TORCH, SORTED = "step with PyTorch's products", "step, sorted update"
#: Variants of a step that are compared with PyTorch's before anything is timed.
PARITY = {
    "step": {}, WITH_TORCH: {"dense_part": TORCH},
    "step, both beside": {"beside": OVERLAPPED["step, both beside"]},
}  # fmt: skip

Name = tuple[str, ...]


class GraphTimer:
    """Times phases as CUDA graphs, and calls as they are, in milliseconds.

    Args:
        torch: the PyTorch module.
        repeats: timed calls per measurement.
    """

    def __init__(self, torch: Any, repeats: int):
        self._torch, self._repeats = torch, repeats
        # One stream for all graphs: cuBLAS keeps a workspace for each.
        self._stream = torch.cuda.Stream()

    def phases(self, phases: Sequence[Callable[[], None]], before: Callable[[int], None]) -> float:
        """Returns the median time of a graph of phases, without the preceding `before(k)`."""
        torch = self._torch
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(2):  # first launches load kernels, which is not allowed in a capture
                for phase in phases:
                    phase()
        torch.cuda.current_stream().wait_stream(self._stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            for phase in phases:
                phase()
        # The host is slower than a short graph: the device waits until some are queued.
        hold(0.02)
        return self._median(graph.replay, before, self._repeats)

    def call(self, call: Callable[[], None], before: Callable[[int], None]) -> float:
        """Returns the median time of a call, launched one by one by the host."""
        return self._median(call, before, max(5, self._repeats // 4))

    def _median(self, call, before, repeats):
        times = []
        for k in range(repeats + 3):
            before(k)
            begin, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            times.append((begin, end))
        self._torch.cuda.synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in times[3:])


class Measurements:
    """The measurements of a step, the most important first.

    Args:
        step: the step.
        timer: a `GraphTimer`, or an object with its methods.
        generator: draws the ids.
    """

    def __init__(self, step: Step, timer: Any, generator: np.random.Generator):
        self._step, self._timer, self._generator = step, timer, generator
        self._ids = functools.lru_cache(maxsize=None)(self._draw)
        #: {kind of ids: for each table, the share of its lookups for its most frequent row}.
        self.hottest_row_shares: dict[str, list[float]] = {}
        #: {kind of ids: mean number of distinct rows of a batch}.
        self.distinct_rows: dict[str, float] = {}

    def plan(self) -> list[tuple[Name, Callable[[], float]]]:
        """Returns [(name, function that returns milliseconds)], the most important first.

        A name is (kind of ids, what) or (kind of ids, phase, "alone" or "without").
        """
        phases, listed = self._step.phases(), []

        def each(what, measure, *arguments):
            for kind in KINDS:
                listed.append(((kind, what), functools.partial(measure, kind, *arguments)))

        each("step", self._graph, [*phases])
        each("PyTorch", self._plain)
        each(WITH_TORCH, self._graph, [*phases], False, TORCH)
        for what, beside in OVERLAPPED.items():
            each(what, self._overlapped, beside)
        each(SORTED, self._graph, [*phases], True)
        for kind in KINDS:
            for phase in phases if kind == "uniform" else ROW_PHASES:
                rest = [other for other in phases if other != phase]
                for what, names in (("alone", [phase]), ("without", rest)):
                    measure = functools.partial(self._graph, kind, names)
                    listed.append(((kind, phase, what), measure))
        return listed

    def _draw(self, kind):
        step = self._step
        sets = [draw_ids(self._generator, step.sizes, step.batch, kind) for _ in range(ID_SETS)]
        shares = np.mean([hottest_shares(ids) for ids in sets], axis=0)
        self.distinct_rows[kind] = float(
            np.mean([sum(len(np.unique(column)) for column in ids.T) for ids in sets])
        )
        self.hottest_row_shares[kind] = shares.round(4).tolist()
        return [step.torch.from_numpy(ids).to(step.device) for ids in sets]

    def _next_ids(self, kind):
        sets = self._ids(kind)
        return lambda k: self._step.ids.copy_(sets[k % ID_SETS])

    def floors(self, kind: str, limits: Limits) -> dict[str, float]:
        """Returns {phase or "step": least milliseconds} for a kind of ids that was measured."""
        step = self._step
        work = step_work(
            step.batch, step.tables, DIM, self.distinct_rows[kind],
            (DENSE, *step_phases.BOTTOM), (step.interacted.shape[1], *step_phases.TOP),
            step.interacted.element_size(),
        )  # fmt: skip
        return floors(limits, work)

    def _graph(self, kind, names, deterministic=False, dense_part=FUSED):
        phases = self._prepare(kind, deterministic, dense_part).phases()
        return self._timer.phases([phases[name] for name in names], self._next_ids(kind))

    def _overlapped(self, kind, beside):
        phases = self._prepare(kind).overlapped(beside)
        return self._timer.phases(phases, self._next_ids(kind))

    def _prepare(self, kind, deterministic=False, dense_part=FUSED):
        self._next_ids(kind)(0)
        self._step.deterministic = deterministic
        self._step.use(dense_part)
        return self._step

    def _plain(self, kind):
        return self._timer.call(PlainStep(self._step), self._next_ids(kind))


def run_plan(
    plan: Sequence[tuple[Name, Callable[[], float]]],
    remaining: Callable[[], float],
    record: Callable[[Name, float | str], None],
) -> list[Name]:
    """Takes measurements until the time is used up; returns the names of those not taken.

    Args:
        plan: as from `Measurements.plan`.
        remaining: returns the seconds left. The run ends before a measurement if that is less than
            the longest one so far took.
        record: called after each measurement with its name and milliseconds, or an error's text.
    """
    longest = 0.0
    for index, (name, measure) in enumerate(plan):
        if remaining() <= longest:
            return [name for name, _ in plan[index:]]
        begin = time.monotonic()
        try:
            result = measure()
        except RuntimeError as error:  # of PyTorch, out of memory included, or of the launchers
            result = f"{type(error).__name__}: {error}".partition("\n")[0]
        longest = max(longest, time.monotonic() - begin)
        record(name, result)
    return []
