"""Runs `benchmarks.gpu_step` on the emulated kernels, in PyTorch's environment; prints JSON.

python3 -m tests.support.benchmarks.emulated_gpu_step parity SEED PRECISION
python3 -m tests.support.benchmarks.emulated_gpu_step measure SEED
"""

import json
import sys
import time

import numpy as np
import torch

from benchmarks import gpu_step
from benchmarks.gpu_step_phases import Step, parity
from tests.gpu import build


class HostTimer:
    """Has the methods of `GraphTimer`; takes each measurement once, without a CUDA graph."""

    def phases(self, phases, before):
        before(0)
        begin = time.perf_counter()
        for phase in phases:
            phase()
        return (time.perf_counter() - begin) * 1e3

    def call(self, call, before):
        return self.phases([call], before)


def measure(library, seed):
    """Returns (milliseconds by name, or errors, shares of the hottest rows, the bad id)."""
    step = Step(torch, library, [100, 3, 50], 16, seed, device="cpu")
    measurements = gpu_step.Measurements(step, HostTimer(), np.random.default_rng(seed))
    results = {}
    gpu_step.run_plan(measurements.plan(), lambda: 1e9, results.__setitem__)
    return gpu_step.figures(results), measurements.hottest_row_shares, library.take_id_error()


def main():
    library = build.open_library(build.build_emulation())
    what, seed, *rest = sys.argv[1:]
    if what == "parity":
        found = parity(torch, library, int(seed), *rest, batch=32, device="cpu")
    else:
        found = measure(library, int(seed))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
