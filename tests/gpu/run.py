"""Builds, checks and times the CUDA kernels on this host's GPU and prints one table.

    python3 -m tests.gpu.run [--quick] [--json FILE] [--only WORDS] [--seed N]
    python3 -m tests.gpu.run --sanitizer racecheck

Needs nvcc, NumPy and PyTorch with CUDA; no TensorFlow and no network. Groups of entries run in
separate processes, so that a kernel that hangs or breaks the CUDA context fails only one entry. The
JSON file is updated after every result. The exit code is 0 only if every check passed and every
timing ran.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import secrets
import shutil
import signal
import sys
import threading
import time

from tests.gpu import build, group, table
from tests.gpu.clock import device_state
from tests.gpu.processes import GroupRunner

BUILD_SECONDS = 240
# Under compute-sanitizer processes start slowly and kernels take a hundred times as long.
SANITIZER_REPORT_TIMEOUT = 280


class Results:
    """Collects results, prints each one and writes them to a file."""

    def __init__(self, path):
        self._path, self._lock = path, threading.Lock()
        self.all = {"finished": False, "checks": [], "timings": []}
        self.save()

    def add(self, kind, entry):
        """Adds one result."""
        with self._lock:
            self.all[kind].append(entry)
            print(table.line_of(entry), flush=True)
            self._save()

    def save(self, **more):
        """Adds fields of the run and writes the file."""
        with self._lock:
            self.all.update(more)
            self._save()

    def _save(self):
        if self._path is not None:
            partial = self._path.with_name(self._path.name + ".part")
            partial.write_text(json.dumps(self.all, indent=1))
            os.replace(partial, self._path)


def run_groups(names, options, results, library_path, deadline):
    """Runs groups in parallel, checks split into shares according to the number of processors."""
    processors = os.cpu_count() or 2
    shares = max(1, min(4, processors // (2 * len(names)))) if names[0] in group.CHECKS else 1
    runners = []
    for name in names:
        kind = "checks" if name in group.CHECKS else "timings"
        for share in range(shares):
            report = library_path.parent / f"{name.replace(' ', '-')}-{share}-{os.getpid()}.jsonl"
            arguments = [
                "--shared_object", str(library_path), "--only", options.only,
                "--share", str(share), str(shares), "--seed", str(options.seed),
            ]  # fmt: skip
            arguments += ["--quick"] * (options.quick or options.sanitizer is not None)
            runner = GroupRunner(
                name, arguments, report, deadline, max(1, processors // (shares * len(names))),
                lambda entry, kind=kind: results.add(kind, entry),
            )  # fmt: skip
            if options.sanitizer is not None:
                runner.timeout = SANITIZER_REPORT_TIMEOUT
                runner.prefix = ["compute-sanitizer", "--tool", options.sanitizer,
                                 "--error-exitcode", "77", "--print-limit", "20"]  # fmt: skip
            runners.append(runner)
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(len(runners)) as pool:
        try:
            list(pool.map(lambda runner: runner.run(), runners))
        except BaseException:  # e.g. an interrupt: stops the processes
            for runner in runners:
                runner.deadline = 0
            raise
    print(f"{', '.join(names)}: {time.monotonic() - begin:.0f} s", flush=True)


def stages(options):
    """Returns lists of groups: the groups of one list run in parallel, the lists one by one."""
    checks = ["check interaction", "check embedding"]
    if options.sanitizer is not None:
        return [[name] for name in checks]
    return [checks] if options.quick else [checks, *([name] for name in group.TIMINGS),
                                           ["check large"]]  # fmt: skip


def parse():
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer shapes, no timings")
    parser.add_argument("--json", type=pathlib.Path, help="also write all numbers to this file")
    parser.add_argument("--only", default="", help="run only entries whose name contains this text")
    parser.add_argument("--seed", type=int, help="seed of all inputs (default: random)")
    parser.add_argument("--seconds", type=float, default=500, help="time limit, build included")
    parser.add_argument(
        "--sanitizer", choices=("memcheck", "racecheck", "synccheck"),
        help="run the quick checks under this tool of compute-sanitizer",
    )  # fmt: skip
    options = parser.parse_args()
    if options.json is not None and not options.json.absolute().parent.is_dir():
        parser.error(f"--json {options.json}: folder {options.json.absolute().parent} not found")
    if not options.seconds > 0:
        parser.error(f"--seconds: expected more than 0, found {options.seconds}")
    if options.seed is None:
        options.seed = secrets.randbits(32)
    return options


def build_library(results, deadline):
    """Builds the library for this GPU; returns its path."""
    import torch

    architecture = build.architecture_for(torch.cuda.get_device_capability())
    begin = time.monotonic()
    library_path, report = build.build_for_gpu(
        architecture, os.cpu_count() or 2, min(BUILD_SECONDS, deadline - begin)
    )
    seconds = time.monotonic() - begin
    spilled = build.spilled_kernels(report)
    print(f"built {library_path.name} in {seconds:.0f} s; "
          f"spills: {', '.join(spilled) or 'none'}", flush=True)  # fmt: skip
    results.save(build_seconds=seconds, kernels=build.kernel_resources(report))
    return library_path


def main():
    """Returns the exit code."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("tests.gpu.run: terminated"))
    begin = time.monotonic()
    deadline = begin + options.seconds
    results = Results(options.json)
    try:
        import torch
    except ImportError:
        sys.exit("tests.gpu.run: PyTorch is not installed; try `pip install torch`")
    if build.nvcc() is None:
        sys.exit("tests.gpu.run: nvcc not found in CUDA_HOME, PATH and /usr/local/cuda/bin")
    if not torch.cuda.is_available():
        sys.exit("tests.gpu.run: PyTorch finds no CUDA device; no kernel was run")
    if options.sanitizer is not None and shutil.which("compute-sanitizer") is None:
        sys.exit("tests.gpu.run: compute-sanitizer not found in PATH")
    print(f"seed {options.seed}", flush=True)
    results.save(seed=options.seed, device=torch.cuda.get_device_name(), before=device_state())
    try:
        library_path = build_library(results, deadline)
    except build.BuildError as error:
        results.save(error=str(error))
        sys.exit(f"tests.gpu.run: build failed: {error}")
    for names in stages(options):
        run_groups(names, options, results, library_path, deadline)
    found = results.all
    if found["timings"]:
        table.print_timings(found)
    results.save(finished=True, after=device_state(), seconds=time.monotonic() - begin)
    if not found["checks"] + found["timings"]:
        sys.exit(f"tests.gpu.run: --only: no entry's name contains {options.only!r}")
    failed = [e["name"] for e in found["checks"] + found["timings"] if not e["passed"]]
    print(f"\n{len(failed)} failed: {', '.join(failed)}" if failed else "\nall passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
