"""Builds, checks and times the CUDA kernels on this host's GPU and prints one table.

    python3 -m tests.gpu.run [--quick] [--json FILE] [--only WORDS] [--seed N]
    python3 -m tests.gpu.run --library FILE --groups time-machine,time-full
    python3 -m tests.gpu.run --sanitizer racecheck

Needs NumPy, PyTorch with CUDA, and nvcc or a built library; no TensorFlow and no network. Groups of
entries run in separate processes, so that a kernel that hangs or breaks the CUDA context fails only
one entry. The JSON file is updated after every result. The exit code is 0 only if every check
passed and every timing ran.
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
import tempfile
import threading
import time

from tests.gpu import build, group, launchers, table
from tests.gpu.clock import device_state
from tests.gpu.processes import GroupRunner

BUILD_SECONDS = 240
# Under compute-sanitizer processes start slowly and kernels take a hundred times as long.
SANITIZER_REPORT_TIMEOUT = 280
# Groups whose entries are split among processes that share the GPU.
SHARED = ("check interaction", "check embedding", "check dense", "check large")
QUICK = ("check interaction", "check embedding", "check dense")
_QUICK_WORDS = "check-interaction, check-embedding or check-dense"
GROUPS = {name.replace(" ", "-"): name for name in (*group.CHECKS, *group.TIMINGS)}
SETS = {"checks": list(group.CHECKS), "timings": list(group.TIMINGS)}


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


def run_groups(names, options, results, library_path, deadline, folder):
    """Runs groups in parallel, checks split into shares according to the number of processors.

    Args:
        names: the groups.
        options: the command line's.
        results: where results are added.
        library_path: the built library.
        deadline: `time.monotonic()` at which the groups are stopped.
        folder: where the processes write their reports.
    """
    processors = os.cpu_count() or 2
    shares = max(1, min(4, processors // (2 * len(names)))) if names[0] in SHARED else 1
    runners = []
    for name in names:
        kind = "checks" if name in group.CHECKS else "timings"
        for share in range(shares):
            report = folder / f"{name.replace(' ', '-')}-{share}.jsonl"
            arguments = [
                "--shared_object", str(library_path), "--share", str(share), str(shares),
                "--seed", str(options.seed), *(f"--only={text}" for text in options.only),
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
    quick = options.quick or options.sanitizer is not None
    chosen = options.groups or (QUICK if quick else [*group.CHECKS, *group.TIMINGS])
    together = [name for name in QUICK if name in chosen]
    alone = [name for name in (*group.TIMINGS, "check large", "check full") if name in chosen]
    if options.sanitizer is not None:
        return [[name] for name in together]
    return [together] * bool(together) + [[name] for name in alone]


def _groups(text):
    """Returns the names of groups in a comma-separated list: a type for argparse."""
    chosen = []
    for word in text.split(","):
        if word not in GROUPS and word not in SETS:
            raise argparse.ArgumentTypeError(
                f"unknown group {word!r}; expected some of {', '.join([*SETS, *GROUPS])}"
            )
        chosen += SETS[word] if word in SETS else [GROUPS[word]]
    return chosen


def parse(arguments=None):
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true",
        help="fewer shapes; without --groups, only the checks of interaction, embedding and dense",
    )  # fmt: skip
    parser.add_argument("--json", type=pathlib.Path, help="also write all numbers to this file")
    parser.add_argument(
        "--groups", type=_groups, metavar="NAME[,NAME...]",
        help=f"run only these groups: {', '.join(GROUPS)}; checks and timings mean all of a kind "
        "(shares of the copy bandwidth need time-machine)",
    )  # fmt: skip
    parser.add_argument(
        "--only", action="append", default=[], metavar="TEXT",
        help="run only entries whose name contains this text, or one of several if repeated",
    )  # fmt: skip
    parser.add_argument(
        "--library", type=pathlib.Path, metavar="FILE",
        help="a library from an earlier run (build/cuda/libdlrm_cuda_kernels-*.so) instead of a "
        "build; nvcc is not needed",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="seed of all inputs (default: random)")
    parser.add_argument("--seconds", type=float, default=500, help="time limit, build included")
    parser.add_argument(
        "--sanitizer", choices=("memcheck", "racecheck", "synccheck"),
        help="run the quick checks under this tool of compute-sanitizer",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.json is not None and not options.json.absolute().parent.is_dir():
        parser.error(f"--json {options.json}: folder {options.json.absolute().parent} not found")
    if not options.seconds > 0:
        parser.error(f"--seconds: expected more than 0, found {options.seconds}")
    if options.groups is not None:
        if options.quick and not set(options.groups) & set(QUICK):
            parser.error(f"--quick: none of --groups has fewer shapes; expected {_QUICK_WORDS}")
        if options.sanitizer is not None and not set(options.groups) <= set(QUICK):
            parser.error(f"--sanitizer: expected no --groups but {_QUICK_WORDS}, found "
                         f"{', '.join(options.groups)}")  # fmt: skip
    if options.seed is None:
        options.seed = secrets.randbits(32)
    return options


def build_library(results, deadline):
    """Builds the library for this GPU; returns its path."""
    begin = time.monotonic()
    library_path, report = build.build_for_this_gpu(min(BUILD_SECONDS, deadline - begin))
    seconds = time.monotonic() - begin
    spilled = build.spilled_kernels(report)
    print(f"built {library_path.name} in {seconds:.0f} s; "
          f"spills: {', '.join(spilled) or 'none'}", flush=True)  # fmt: skip
    results.save(build_seconds=seconds, kernels=build.kernel_resources(report))
    return library_path


def main(arguments=None):
    """Returns the exit code."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("tests.gpu.run: terminated"))
    begin = time.monotonic()
    deadline = begin + options.seconds
    results = Results(options.json)
    try:
        import torch
    except ImportError:
        sys.exit("tests.gpu.run: PyTorch is not installed; try `pip install torch`")
    if not torch.cuda.is_available():
        sys.exit("tests.gpu.run: PyTorch finds no CUDA device; no kernel was run")
    if options.sanitizer is not None and shutil.which("compute-sanitizer") is None:
        sys.exit("tests.gpu.run: compute-sanitizer not found in PATH")
    print(f"seed {options.seed}", flush=True)
    results.save(seed=options.seed, device=torch.cuda.get_device_name(), before=device_state())
    try:
        # Absolute: the groups' processes run in the root of the source tree.
        library_path = (options.library or build_library(results, deadline)).absolute()
        build.open_library(library_path)
    except (build.BuildError, launchers.LibraryError) as error:
        results.save(error=str(error))
        sys.exit(f"tests.gpu.run: {error}")
    results.save(library=str(library_path))
    with tempfile.TemporaryDirectory() as folder:
        for names in stages(options):
            run_groups(names, options, results, library_path, deadline, pathlib.Path(folder))
    found = results.all
    if found["timings"]:
        table.print_timings(found)
    results.save(finished=True, after=device_state(), seconds=time.monotonic() - begin)
    if not found["checks"] + found["timings"]:
        sys.exit(f"tests.gpu.run: --only: no entry's name contains {' or '.join(options.only)}")
    failed = [e["name"] for e in found["checks"] + found["timings"] if not e["passed"]]
    print(f"\n{len(failed)} failed: {', '.join(failed)}" if failed else "\nall passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
