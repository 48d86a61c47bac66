"""Runs checks and timings of `tests.gpu` on the emulated kernels, in PyTorch's environment.

python3 -m tests.support.ops.emulated_gpu_tables SEED prints JSON.
"""

import argparse
import json
import sys

import numpy as np

from tests.gpu import build, clock, embedding_timings, full_checks, group, memory

SIZES, BATCH, BOUNDARIES = (500, 3, 1, 700), 80, (64, 512, 1024)


class Faulty:
    """A library, one of whose functions is replaced."""

    def __init__(self, library, name, function):
        self._library, self._name, self._function = library, name, function

    def __getattr__(self, name):
        return self._function if name == self._name else getattr(self._library, name)


def check(library, device, seed):
    """Returns (cases, worst) of the full tables' check, or the message of a mismatch."""
    rng = np.random.default_rng(seed)
    try:
        return full_checks.run(library, device, SIZES, BATCH, BOUNDARIES, rng)
    except AssertionError as error:
        return str(error)


def faults(library):
    """Returns libraries with faults that the full tables' check must find."""

    def initialize(pointer, dim, count, first, stride, table, *rest):
        library.embedding_initialize(pointer, dim, count, first, stride, table // 3, *rest)

    def without_last_row(function):
        # As if offsets of the last table were cut: its last row is taken for another one.
        def call(batch, *arguments):
            sizes = batch._obj.table_rows
            sizes[len(SIZES) - 1] -= 1
            function(batch, *arguments)
            sizes[len(SIZES) - 1] += 1

        return call

    return {
        "initialize": Faulty(library, "embedding_initialize", initialize),
        "lookup": Faulty(library, "embedding_lookup", without_last_row(library.embedding_lookup)),
        "update": Faulty(library, "embedding_update", without_last_row(library.embedding_update)),
    }


def timings(library, device, seed):
    """Returns {name: result} of every timing of the full tables, with small tables."""

    def measure(calls, repeats=30, warmup=4):
        for call in calls:
            call()
        return {"seconds": 1e-3, "seconds_low": 1e-3, "seconds_high": 1e-3, "waited": False}

    clock.measure, embedding_timings.BATCH = measure, BATCH
    embedding_timings.PARTS["full"] = ("MLPerf sizes", SIZES)
    embedding_timings.CASES["full"] = [
        (kind, BATCH, dtype, operations)
        for kind, _, dtype, operations in embedding_timings.CASES["full"]
    ]
    device.require_free = lambda size: None
    listed = embedding_timings.entries(library, device, "full", seed)
    results = {name: group._attempt(run) for name, run in listed}

    def no_memory(size):
        raise MemoryError(f"expected {size} bytes")

    device.require_free = no_memory
    listed = embedding_timings.entries(library, device, "full", seed)
    return results, {name: group._attempt(run) for name, run in listed}


def names(path, device, **options):
    """Returns {group: names of the entries that a process of the group runs}."""
    device.require_free = lambda size: None
    given = {"shared_object": path, "only": None, "share": (0, 1), "seed": 1, "quick": False}
    return {
        name: [entry for entry, _ in group.entries_of(
            argparse.Namespace(group=name, **{**given, **options}), device
        )]
        for name in (*group.CHECKS, *group.TIMINGS)
    }  # fmt: skip


def main():
    path, seed = build.build_emulation(), int(sys.argv[1])
    library, device = build.open_library(path), memory.TorchMemory("cpu")
    results, skipped = timings(library, device, seed)
    bad_id = library.take_id_error()
    print(json.dumps({
        "sound": check(library, device, seed),
        "faults": {name: check(faulty, device, seed) for name, faulty in faults(library).items()},
        "names": names(path, device),
        "shares": [names(path, device, share=(k, 2)) for k in range(2)],
        "only": names(path, device, only=["SGD", "forward"]),
        "timings": results, "skipped": skipped, "bad id": bad_id,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
