"""Runs one group of checks or timings; ``tests.gpu.run`` starts it in a separate process.

Each line of the report is a JSON object: first {"names": [...]}, then for each entry
{"begin": name} and {"result": {...}}, written at once, so that results survive a crash.
"""

import argparse
import ctypes
import json
import signal
import sys
import time
import traceback
import zlib

import numpy as np

from tests.gpu import (
    bag_checks,
    bag_timings,
    dense_checks,
    dense_timings,
    embedding_checks,
    embedding_timings,
    full_checks,
    interaction_checks,
    interaction_timings,
    large_checks,
    launchers,
    loss_checks,
    machine,
    memory,
    mlp_checks,
)

#: {group: modules with its checks}.
CHECKS = {
    "check interaction": (interaction_checks,),
    "check embedding": (embedding_checks, bag_checks),
    "check dense": (mlp_checks, loss_checks, dense_checks),
    "check large": (large_checks,),
    "check full": (full_checks,),
}
TIMINGS = (
    "time machine", "time interaction", "time dense", "time uniform", "time criteo", "time bags",
    "time full",
)  # fmt: skip
# Exit code after a CUDA error, which makes the process unusable.
BROKEN = 3


def _first_line(error):
    return f"{type(error).__name__}: {error}".partition("\n")[0][:600]


def _attempt(action, **facts):
    """Returns an entry's result: `facts` and what the action returns, or its error."""
    try:
        return {"passed": True, **facts, **action()}
    except MemoryError as error:
        return {"passed": True, "skipped": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"passed": False, **facts, "error": _first_line(error)}


def _check(name, check, seed):
    def action():
        cases, worst = check(np.random.default_rng([seed, zlib.crc32(name.encode())]))
        return {"cases": cases, "worst": float(worst)}

    return _attempt(action, seed=seed)


def entries_of(options, device):
    """Returns [(name, function that returns a result)] of this process's share of the group."""
    library = launchers.Library(options.shared_object)
    if options.group in CHECKS:
        found = [
            (name, lambda name=name, check=check: _check(name, check, options.seed))
            for module in CHECKS[options.group]
            for name, check in module.checks(library, device, not options.quick)
        ]
    else:
        part = options.group.split()[1]
        if part == "machine":
            timings = machine.entries(options.seed)
        elif part == "interaction":
            timings = interaction_timings.entries(library, device.stream, options.seed)
        elif part == "dense":
            timings = dense_timings.entries(library, options.seed)
        elif part == "bags":
            timings = bag_timings.entries(library, device, options.seed)
        else:
            timings = embedding_timings.entries(library, device, part, options.seed)
        found = [(name, lambda measure=measure: _attempt(measure)) for name, measure in timings]
    share, shares = options.share
    chosen = [pair for pair in found
              if not options.only or any(text in pair[0] for text in options.only)]  # fmt: skip
    return chosen[share::shares]


def _end_with_parent():
    """Makes Linux kill this process when its parent dies, so that it stops using the GPU."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def main():
    """Returns the exit code. The command line is internal to ``tests.gpu.run``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--group", required=True)
    parser.add_argument("--shared_object", required=True)
    parser.add_argument("--report", required=True)
    parser.add_argument("--share", type=int, nargs=2, default=(0, 1))
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--only", action="append")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    _end_with_parent()
    device = memory.TorchMemory()
    with open(options.report, "a", encoding="utf-8") as report:

        def write(line):
            report.write(json.dumps(line) + "\n")
            report.flush()

        entries = entries_of(options, device)
        write({"names": [name for name, _ in entries]})
        for name, run in entries[options.skip :]:
            write({"begin": name})
            begin = time.monotonic()
            result = run()
            try:
                device.synchronize()
            except RuntimeError as error:
                # Kernel errors are asynchronous, and the context is unusable after one.
                result.update(passed=False, error=result.get("error", _first_line(error)))
                write({"result": {"name": name, **result}})
                return BROKEN
            result["wall_seconds"] = round(time.monotonic() - begin, 2)
            write({"result": {"name": name, **result}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
