"""Builds, checks and times the CUDA kernels on this host's GPU and prints one table.

    python3 -m tests.gpu.run [--quick] [--json FILE] [--only WORDS] [--seed N]
    python3 -m tests.gpu.run --sanitizer racecheck

Needs nvcc, NumPy and PyTorch with CUDA; no TensorFlow and no network. Every group runs in
processes of its own, so that a kernel that breaks the CUDA context or hangs hides no other's
result; what is known so far stands in the JSON file at any time. The exit code is 0 only if every
check passed and every timing ran.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import sys
import threading
import time

from tests.gpu import build, group, table
from tests.gpu.clock import device_state
from tests.gpu.processes import Follower

BUILD_SECONDS = 240
# Under compute-sanitizer a process takes long to start, and its kernels a hundred times as long.
SANITIZER_SILENCE_SECONDS = 280


class Results:
    """All that is known, printed and written to a file as it comes."""

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
        """Adds facts of the run and writes the file."""
        with self._lock:
            self.all.update(more)
            self._save()

    def _save(self):
        if self._path is not None:
            partial = self._path.with_name(self._path.name + ".part")
            partial.write_text(json.dumps(self.all, indent=1))
            os.replace(partial, self._path)


def run_groups(names, options, results, library_path, deadline):
    """Runs groups side by side, each in as many shares as there are processors for."""
    processors = os.cpu_count() or 2
    shares = max(1, min(4, processors // (2 * len(names)))) if names[0] in group.CHECKS else 1
    followers = []
    for name in names:
        kind = "checks" if name in group.CHECKS else "timings"
        for share in range(shares):
            report = library_path.parent / f"{name.replace(' ', '-')}-{share}-{os.getpid()}.jsonl"
            arguments = ["--shared_object", str(library_path), "--only", options.only,
                         "--share", str(share), str(shares)]  # fmt: skip
            arguments += ["--quick"] * (options.quick or options.sanitizer is not None)
            arguments += [] if options.seed is None else ["--seed", str(options.seed)]
            follower = Follower(
                name, arguments, report, deadline, max(1, processors // (shares * len(names))),
                lambda entry, kind=kind: results.add(kind, entry),
            )  # fmt: skip
            if options.sanitizer is not None:
                follower.silence = SANITIZER_SILENCE_SECONDS
                follower.prefix = ["compute-sanitizer", "--tool", options.sanitizer,
                                   "--error-exitcode", "77", "--print-limit", "20"]  # fmt: skip
            followers.append(follower)
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(len(followers)) as pool:
        try:
            list(pool.map(lambda follower: follower.run(), followers))
        except BaseException:  # an interrupt: the processes would go on
            for follower in followers:
                follower.deadline = 0
            raise
    print(f"{', '.join(names)}: {time.monotonic() - begin:.0f} s", flush=True)


def stages(options):
    """Lists the groups that run one after another; those of one stage run side by side."""
    checks = ["check interaction", "check embedding"]
    if options.sanitizer is not None:
        return [[name] for name in checks]
    return [checks] if options.quick else [checks, *([name] for name in group.TIMINGS),
                                           ["check large"]]  # fmt: skip


def parse():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer shapes, no timings")
    parser.add_argument("--json", type=pathlib.Path, help="also write all numbers to this file")
    parser.add_argument("--only", default="", help="entries whose name holds these words")
    parser.add_argument("--seed", type=int, help="of the checks' random inputs")
    parser.add_argument("--seconds", type=float, default=500, help="most that the run may take")
    parser.add_argument(
        "--sanitizer", choices=("memcheck", "racecheck", "synccheck"),
        help="run the quick checks under this tool of compute-sanitizer",
    )  # fmt: skip
    options = parser.parse_args()
    if options.json is not None and not options.json.absolute().parent.is_dir():
        parser.error(f"--json {options.json}: there is no folder {options.json.absolute().parent}")
    if not options.seconds > 0:
        parser.error(f"--seconds {options.seconds}: expected more than 0")
    return options


def build_library(results, deadline):
    """Returns the path of the library for this GPU."""
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
        sys.exit("tests.gpu.run: needs PyTorch with CUDA; this Python has none")
    if build.nvcc() is None:
        sys.exit("tests.gpu.run: needs nvcc; it is neither on PATH nor in /usr/local/cuda/bin")
    if not torch.cuda.is_available():
        sys.exit("tests.gpu.run: PyTorch finds no CUDA device: the kernels were not run")
    if options.sanitizer is not None and shutil.which("compute-sanitizer") is None:
        sys.exit("tests.gpu.run: compute-sanitizer is not on PATH")
    results.save(device=torch.cuda.get_device_name(), before=device_state())
    try:
        library_path = build_library(results, deadline)
    except build.BuildError as error:
        results.save(error=str(error))
        sys.exit(f"tests.gpu.run: the kernels could not be built: {error}")
    for names in stages(options):
        run_groups(names, options, results, library_path, deadline)
    found = results.all
    table.print_checks(found["checks"])
    if found["timings"]:
        table.print_timings(found)
    results.save(finished=True, after=device_state(), seconds=time.monotonic() - begin)
    if not found["checks"] + found["timings"]:
        sys.exit(f"tests.gpu.run: no entry's name holds {options.only!r}")
    failed = [e["name"] for e in found["checks"] + found["timings"] if not e["passed"]]
    print(f"\n{len(failed)} failed: {', '.join(failed)}" if failed else "\nall passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
