"""Builds, checks and times the CUDA kernels on this host's GPU and prints one table.

    python3 -m tests.gpu.run [--quick] [--json FILE]

Needs nvcc, NumPy and PyTorch with CUDA; no TensorFlow and no network. Every group runs in a
process of its own, so that a kernel that breaks the CUDA context hides no other's result. The exit
code is 0 only if every check passed and every timing ran.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
import traceback

import numpy as np

from tests.gpu import (
    build,
    embedding_checks,
    interaction_checks,
    large_checks,
    launchers,
    memory,
    timings,
)

CHECKS = {
    "check interaction": interaction_checks,
    "check embedding": embedding_checks,
    "check large": large_checks,
}
TIMINGS = ("time machine", "time interaction", "time uniform", "time criteo")
GROUP_SECONDS = 240


def run_checks(module, library, large):
    """Runs a module's checks; a failure is a result like any other."""
    device, results = memory.TorchMemory(), []
    for name, check in module.checks(library, device, large):
        begin = time.monotonic()
        seed = int.from_bytes(os.urandom(4), "little")
        entry = {"name": name, "seed": seed, "passed": False}
        try:
            cases, worst = check(np.random.default_rng(seed))
            device.synchronize()
            entry.update(passed=True, cases=cases, worst=worst)
        except MemoryError as error:
            entry.update(passed=True, skipped=str(error))
        except Exception as error:
            traceback.print_exc()
            entry["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        entry["seconds"] = round(time.monotonic() - begin, 2)
        results.append(entry)
    return results


def run_timings(library, part):
    """Runs one part's timings."""
    device = memory.TorchMemory()
    if part == "machine":
        return [{"name": "machine", "passed": True, **timings.machine()}]
    results = []
    try:
        for name, size, seconds, torch_seconds in timings.rows(library, device.stream, part):
            device.synchronize()
            results.append(
                {"name": name, "passed": True, "bytes": size, "seconds": seconds,
                 "torch_seconds": torch_seconds}
            )  # fmt: skip
    except Exception as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        results.append({"name": f"timings of {part}", "passed": False, "error": message})
    return results


def run_group(group, library_path, large):
    """Runs one group in this process and returns its results."""
    library = launchers.Library(library_path)
    if group in CHECKS:
        return run_checks(CHECKS[group], library, large)
    return run_timings(library, group.split()[1])


def spawn_group(group, library_path, quick, folder):
    """Runs one group in a process of its own; a crash or a hang becomes a failed result."""
    report = folder / f"{group.replace(' ', '-')}-{os.getpid()}.json"
    command = [sys.executable, "-m", "tests.gpu.run", "--group", group, "--shared_object",
               str(library_path), "--json", str(report)]  # fmt: skip
    begin = time.monotonic()
    try:
        code = subprocess.run(
            command + ["--quick"] * quick, cwd=build.ROOT, timeout=GROUP_SECONDS, check=False
        ).returncode
        problem = f"the process ended with code {code} before it could report"
    except subprocess.TimeoutExpired:
        problem = f"not finished after {GROUP_SECONDS} seconds"
    print(f"{group}: {time.monotonic() - begin:.0f} s", flush=True)
    if not report.exists():
        return [{"name": group, "passed": False, "error": problem}]
    results = json.loads(report.read_text())
    report.unlink()
    return results


def print_table(results):
    """Prints checks, the device's limits, and timings."""
    print(f"\n{'check':45} {'cases':>6} {'error/limit':>12} {'s':>6}  result")
    for entry in results["checks"]:
        verdict = "ok" if entry["passed"] else f"FAILED (seed {entry.get('seed')})"
        verdict = f"skipped: {entry['skipped']}" if "skipped" in entry else verdict
        print(f"{entry['name']:45} {entry.get('cases', '-'):>6} {entry.get('worst', 0):12.3g} "
              f"{entry.get('seconds', 0):6.1f}  {verdict} {entry.get('error', '')}")  # fmt: skip
    machine = next((e for e in results["timings"] if "copy_bytes_per_s" in e), None)
    if machine:
        rates = ", ".join(f"{k} {v / 1e12:.0f}" for k, v in machine["flop_per_s"].items())
        print(f"\n{machine['device']}: copy {machine['copy_bytes_per_s'] / 1e12:.2f} TB/s (read + "
              f"written), matrix products {rates} TFLOP/s")  # fmt: skip
    if not results["timings"]:
        return
    title = f"operation, batch {timings.BATCH:,}"
    print(f"\n{title:58} {'MB':>7} {'us':>8} {'TB/s':>6} {'of copy':>8} {'PyTorch us':>11} "
          f"{'ratio':>6}")  # fmt: skip
    for entry in results["timings"]:
        if "bytes" not in entry:
            if not entry["passed"]:
                print(f"{entry['name']:58} FAILED {entry['error']}")
            continue
        rate = entry["bytes"] / entry["seconds"]
        share = f"{rate / machine['copy_bytes_per_s']:8.1%}" if machine else f"{'-':>8}"
        peer = entry["torch_seconds"]
        beside = f"{peer * 1e6:11.0f} {peer / entry['seconds']:6.1f}" if peer else f"{'-':>11}"
        print(f"{entry['name']:58} {entry['bytes'] / 1e6:7.0f} {entry['seconds'] * 1e6:8.0f} "
              f"{rate / 1e12:6.2f} {share} {beside}")  # fmt: skip


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer shapes, no timings")
    parser.add_argument("--json", type=pathlib.Path, help="also write all numbers to this file")
    parser.add_argument("--group", help=argparse.SUPPRESS)
    parser.add_argument("--shared_object", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.group:
        results = run_group(options.group, options.shared_object, not options.quick)
        options.json.write_text(json.dumps(results))
        return 0

    try:
        import torch
    except ImportError:
        sys.exit("tests.gpu.run: needs PyTorch with CUDA; this Python has none")
    if build.nvcc() is None:
        sys.exit("tests.gpu.run: needs nvcc; it is neither on PATH nor in /usr/local/cuda/bin")
    if not torch.cuda.is_available():
        sys.exit("tests.gpu.run: PyTorch finds no CUDA device: the kernels were not run")
    major, minor = torch.cuda.get_device_capability()
    begin = time.monotonic()
    library_path, report = build.build_for_gpu(f"{major}{minor}", jobs=os.cpu_count() or 2)
    spilled = ", ".join(build.spilled_kernels(report)) or "none"
    print(f"built {library_path.name} in {time.monotonic() - begin:.0f} s; spills: {spilled}")
    groups = ["check interaction", "check embedding"] if options.quick else [*CHECKS, *TIMINGS]
    results = {"checks": [], "timings": []}
    for group in groups:
        kind = "checks" if group in CHECKS else "timings"
        results[kind] += spawn_group(group, library_path, options.quick, library_path.parent)
    print_table(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    failed = [e["name"] for e in results["checks"] + results["timings"] if not e["passed"]]
    print(f"\n{len(failed)} failed: {', '.join(failed)}" if failed else "\nall passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
