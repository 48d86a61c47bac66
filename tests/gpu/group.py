"""One group of checks or timings, in a process of its own; ``tests.gpu.run`` starts it.

Each line of the report is a JSON object: first {"names": [...]}, then for each entry
{"begin": name} and {"result": {...}}, written as they come: what ran before a crash is known.
"""

import argparse
import ctypes
import json
import os
import signal
import sys
import time
import traceback

import numpy as np

from tests.gpu import (
    embedding_checks,
    embedding_timings,
    interaction_checks,
    interaction_timings,
    large_checks,
    launchers,
    machine,
    memory,
)

CHECKS = {
    "check interaction": interaction_checks,
    "check embedding": embedding_checks,
    "check large": large_checks,
}
TIMINGS = ("time machine", "time interaction", "time uniform", "time criteo")
# The exit code of a process that nothing can be run in any more.
BROKEN = 3


def _first_line(error):
    return f"{type(error).__name__}: {error}".partition("\n")[0][:600]


def _check(check, seed):
    """Runs one check; a failure is a result like any other."""
    seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed
    try:
        cases, worst = check(np.random.default_rng(seed))
    except MemoryError as error:
        return {"passed": True, "skipped": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"passed": False, "seed": seed, "error": _first_line(error)}
    return {"passed": True, "seed": seed, "cases": cases, "worst": float(worst)}


def _timing(measure):
    try:
        return {"passed": True, **measure()}
    except Exception as error:
        traceback.print_exc()
        return {"passed": False, "error": _first_line(error)}


def listed(options, device):
    """Lists (name, function returning a result) of the share of the group that is asked for."""
    library = launchers.Library(options.shared_object)
    if options.group in CHECKS:
        found = [
            (name, lambda check=check: _check(check, options.seed))
            for name, check in CHECKS[options.group].checks(library, device, not options.quick)
        ]
    else:
        part = options.group.split()[1]
        if part == "machine":
            timings = machine.entries()
        elif part == "interaction":
            timings = interaction_timings.entries(library, device.stream)
        else:
            timings = embedding_timings.entries(library, device.stream, part)
        found = [(name, lambda measure=measure: _timing(measure)) for name, measure in timings]
    share, shares = options.share
    return [pair for pair in found if options.only in pair[0]][share::shares]


def _end_with_parent():
    """Asks Linux to kill this process when its parent dies: it would go on using the GPU."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def main():
    """Command line, of ``tests.gpu.run`` alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--group", required=True)
    parser.add_argument("--shared_object", required=True)
    parser.add_argument("--report", required=True)
    parser.add_argument("--share", type=int, nargs=2, default=(0, 1))
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    _end_with_parent()
    device = memory.TorchMemory()
    with open(options.report, "a", encoding="utf-8") as report:

        def write(line):
            report.write(json.dumps(line) + "\n")
            report.flush()

        entries = listed(options, device)
        write({"names": [name for name, _ in entries]})
        for name, run in entries[options.skip :]:
            write({"begin": name})
            begin = time.monotonic()
            result = run()
            try:
                device.synchronize()
            except RuntimeError as error:
                # Errors of kernels come late, and a context that had one gives no other answer.
                result.update(passed=False, error=result.get("error", _first_line(error)))
                write({"result": {"name": name, **result}})
                return BROKEN
            result["wall_seconds"] = round(time.monotonic() - begin, 2)
            write({"result": {"name": name, **result}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
