"""Times a complete training step on one GPU: this project's CUDA kernels, without TensorFlow.

    python3 -m benchmarks.gpu_step [--batch 65536] [--vocabulary mlperf] [--precision float16]
                                   [--budget SECONDS] [--library FILE] [--json FILE]

Needs PyTorch with CUDA, and nvcc or an existing library (`--library`); no TensorFlow. The step of
`gpu_step_phases` is captured in a CUDA graph and replayed: the result is the speed that a step can
reach with these kernels. Each phase is timed alone, and by how much faster the step is without it.
For comparison the same step is timed as a PyTorch user would write it, and with PyTorch's matrix
products in place of this project's dense part. Times are compared with the least time that the copy
bandwidth and the matrix rate of the same run allow (`gpu_step_floor`).

The most important measurements come first: the step for uniform, then for skewed ids, PyTorch's
step, the step with PyTorch's products, with row phases on a second stream, with the sorted row
update, and the phases. `--budget` ends the run in time; the JSON file is written after each
measurement.
"""

# PyTorch is not installed in the project's default environment.
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import math
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.gpu_step_floor import Limits
from benchmarks.gpu_step_phases import DIM, PRECISIONS, Step, parity
from benchmarks.gpu_step_plan import PARITY, GraphTimer, Measurements, Name, run_plan
from planner.published_runs import VOCABULARIES
from storage import atomic
from tests.gpu import build, launchers, machine
from tests.gpu.clock import device_state, use_tf32

#: Device memory for everything but the tables, in elements per sample; mostly PyTorch's step.
_ELEMENTS_PER_SAMPLE = 90_000


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


def show(
    name: Name, value: float | str, batch: int, step: float | str | None, least: float
) -> None:
    """Prints one measurement: a step's rate, or how much longer the step takes with a phase.

    Args:
        name: as in `Measurements.plan`.
        value: milliseconds, or an error's text.
        batch: samples of a step.
        step: milliseconds of the complete step with these ids, if measured.
        least: milliseconds that the device's limits allow.
    """
    line = f"{name[0]:8} {' '.join(name[1:]):41} "
    if isinstance(value, str):
        line += f"FAILED: {value}"
    else:
        line += f"{value:8.3f} ms"
        if len(name) == 2:
            line += f" {batch / value / 1e3:8.2f} M samples/s"
        elif name[2] == "without" and isinstance(step, float):
            line += f" {step - value:8.3f} ms of the step"
        if len(name) == 2 or name[2] == "alone":
            line += f", {least / value:.0%} of the limits ({least:.3f} ms)"
    print(line, flush=True)


def measure_limits(precision: str) -> Limits:
    """Measures the device's limits for a precision of `PRECISIONS`."""
    tf32 = precision == "float32"
    found = Limits(
        machine.copies()["copy_bytes_per_s"], machine.matrices(precision, tf32)["flop_per_s"]
    )
    use_tf32(tf32)
    return found


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
    report["parity"] = {}
    for what, variant in PARITY.items():
        found = parity(torch, library, options.seed, options.precision, **variant)
        report["parity"][what] = found
        print(f"{what}: difference from PyTorch after ten steps: {found}", flush=True)
    limits = measure_limits(options.precision)
    torch.cuda.empty_cache()
    report["limits"] = limits._asdict()
    print(f"copy bandwidth {limits.copy_bytes_per_s / 1e12:.2f} TB/s, matrix products "
          f"{limits.flop_per_s / 1e12:.0f} TFLOP/s", flush=True)  # fmt: skip
    step = Step(torch, library, sizes, options.batch, options.seed, options.precision)
    generator = np.random.default_rng(options.seed)
    measurements = Measurements(step, GraphTimer(torch, options.repeats), generator)
    results: dict[Name, float | str] = {}

    def record(name, value):
        results[name] = value
        least = measurements.floors(name[0], limits)
        report.setdefault("least_ms", {})[name[0]] = least
        piece = name[1] if len(name) == 3 else "step"
        show(name, value, options.batch, results.get((name[0], "step")), least[piece])
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
