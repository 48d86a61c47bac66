"""Times a complete training step on one GPU: this project's CUDA kernels plus cuBLAS.

    python3 -m benchmarks.gpu_step [--batch 65536] [--vocabulary mlperf] [--precision float16]
                                   [--budget SECONDS] [--library FILE] [--json FILE]

Needs PyTorch with CUDA, and nvcc or an existing library (`--library`); no TensorFlow. The step of
`gpu_step_phases` is captured in a CUDA graph and replayed: the result is the speed that a step can
reach with these kernels. Each phase is timed alone, and by how much faster the step is without it.
For comparison the same step is timed as a PyTorch user would write it.

The most important measurements come first: the step for uniform, then for skewed ids, PyTorch's
step, the step with the sorted row update, and the phases. `--budget` ends the run in time; the JSON
file is written after each measurement.
"""

# PyTorch is not installed in the project's default environment.
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import functools
import math
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.gpu_step_phases import DIM, PRECISIONS, PlainStep, Step, parity
from planner.published_runs import VOCABULARIES
from storage import atomic
from tests.gpu import build, launchers
from tests.gpu.clock import device_state, hold, use_tf32
from tests.gpu.random_ids import draw_ids, hottest_shares

ID_SETS = 4
KINDS = ("uniform", "skewed")
#: Phases whose time depends on the ids.
ROW_PHASES = ("lookup", "row update")
#: Device memory for everything but the tables, in elements per sample; mostly PyTorch's step.
_ELEMENTS_PER_SAMPLE = 80_000

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

    def plan(self) -> list[tuple[Name, Callable[[], float]]]:
        """Returns [(name, function that returns milliseconds)], the most important first.

        A name is (kind of ids, what) or (kind of ids, phase, "alone" or "without").
        """
        phases, listed = self._step.phases(), []
        for kind in KINDS:
            listed.append(((kind, "step"), functools.partial(self._graph, kind, [*phases])))
        for kind in KINDS:
            listed.append(((kind, "PyTorch"), functools.partial(self._plain, kind)))
        for kind in KINDS:
            name = (kind, "step, sorted update")
            listed.append((name, functools.partial(self._graph, kind, [*phases], True)))
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
        self.hottest_row_shares[kind] = shares.round(4).tolist()
        return [step.torch.from_numpy(ids).to(step.device) for ids in sets]

    def _next_ids(self, kind):
        sets = self._ids(kind)
        return lambda k: self._step.ids.copy_(sets[k % ID_SETS])

    def _graph(self, kind, names, deterministic=False):
        before, phases = self._next_ids(kind), self._step.phases()
        before(0)
        self._step.deterministic = deterministic
        return self._timer.phases([phases[name] for name in names], before)

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


def figures(results: dict[Name, float | str]) -> dict[str, Any]:
    """Returns results by kind of ids, with the phases under "pieces", for JSON."""
    found: dict[str, Any] = {}
    for (kind, what, *rest), value in results.items():
        entry = found.setdefault(kind, {})
        if rest:
            entry.setdefault("pieces", {}).setdefault(what, {})[rest[0]] = value
        else:
            entry[what] = value
    return found


def show(name: Name, value: float | str, batch: int, step: float | str | None) -> None:
    """Prints one measurement: a step's rate, or how much longer the step takes with a phase."""
    line = f"{name[0]:8} {' '.join(name[1:]):30} "
    if isinstance(value, str):
        line += f"FAILED: {value}"
    else:
        line += f"{value:8.3f} ms"
        if len(name) == 2:
            line += f" {batch / value / 1e3:8.2f} M samples/s"
        elif name[2] == "without" and isinstance(step, float):
            line += f" {step - value:8.3f} ms of the step"
    print(line, flush=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=65_536, help="samples per step")
    parser.add_argument("--vocabulary", choices=sorted(VOCABULARIES), default="mlperf")
    parser.add_argument(
        "--precision", choices=sorted(PRECISIONS), default="float16",
        help="float16 with loss scaling, or float32 with TF32 products; PyTorch's step too",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=40, help="timed calls per measurement")
    parser.add_argument(
        "--budget", type=float, default=math.inf, metavar="SECONDS",
        help="end after this time, the build included, with the measurements taken by then",
    )  # fmt: skip
    parser.add_argument("--library", type=pathlib.Path, help="built launchers (default: build)")
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and inputs")
    parser.add_argument("--json", type=pathlib.Path, help="also write all numbers to this file")
    options = parser.parse_args(arguments)
    for name in ("batch", "repeats", "budget"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name}: expected more than 0, found {getattr(options, name)}")
    if options.json is not None and not options.json.absolute().parent.is_dir():
        parser.error(f"--json {options.json}: folder {options.json.absolute().parent} not found")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if a measurement failed."""
    begin = time.monotonic()
    options = parse(arguments)
    try:
        import torch
    except ImportError:
        sys.exit("gpu_step: PyTorch is not installed; try `pip install torch`")
    if not torch.cuda.is_available():
        sys.exit("gpu_step: PyTorch finds no CUDA device")
    sizes = VOCABULARIES[options.vocabulary]
    element = launchers.ELEMENT_BYTES[PRECISIONS[options.precision][0]]
    needed = 4 * DIM * sum(sizes) + options.batch * element * _ELEMENTS_PER_SAMPLE
    free = torch.cuda.mem_get_info()[0]
    if free < needed:
        sys.exit(f"gpu_step: --vocabulary {options.vocabulary}: expected {needed / 1e9:.1f} GB of "
                 f"free device memory, found {free / 1e9:.1f} GB")  # fmt: skip
    try:
        library = build.open_library(options.library or build.build_for_this_gpu()[0])
    except (build.BuildError, launchers.LibraryError) as error:
        sys.exit(f"gpu_step: {error}")
    use_tf32(options.precision == "float32")
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "before": device_state(), "batch": options.batch, "vocabulary": options.vocabulary,
        "table_bytes": 4 * DIM * sum(sizes), "precision": options.precision, "seed": options.seed,
    }  # fmt: skip
    report["parity"] = parity(torch, library, options.seed, options.precision)
    print("difference from PyTorch after ten steps:", report["parity"], flush=True)
    step = Step(torch, library, sizes, options.batch, options.seed, options.precision)
    generator = np.random.default_rng(options.seed)
    measurements = Measurements(step, GraphTimer(torch, options.repeats), generator)
    results: dict[Name, float | str] = {}

    def record(name, value):
        results[name] = value
        show(name, value, options.batch, results.get((name[0], "step")))
        report.update(
            steps=figures(results), hottest_row_shares=measurements.hottest_row_shares,
            peak_bytes=torch.cuda.max_memory_allocated(), seconds=time.monotonic() - begin,
        )  # fmt: skip
        if options.json is not None:
            atomic.write_json(options.json, report)

    left = run_plan(
        measurements.plan(), lambda: options.budget - (time.monotonic() - begin), record
    )
    report.update(not_measured=[" ".join(name) for name in left], after=device_state())
    if options.json is not None:
        atomic.write_json(options.json, report)
    for kind, shares in measurements.hottest_row_shares.items():
        print(f"{kind} ids: the most frequent row gets {min(shares):.2%} to {max(shares):.2%} of "
              "its table's lookups")  # fmt: skip
    print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    if left:
        print(f"--budget {options.budget:g}: {len(left)} measurements not taken, from "
              f"{' '.join(left[0])!r} on")  # fmt: skip
    bad = library.take_id_error()
    if bad is not None:
        sys.exit("gpu_step: table {}, sample {}: id {} is not in [0, {})".format(*bad))
    failed = [" ".join(name) for name, value in results.items() if isinstance(value, str)]
    if failed:
        sys.exit(f"gpu_step: failed: {', '.join(failed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
