"""Runs `benchmarks.gpu_step` on the emulated kernels and a stand-in for cuBLASLt.

Runs in PyTorch's environment.

python3 -m tests.support.benchmarks.emulated_gpu_step SEED prints JSON.
"""

import ctypes
import json
import sys
import time

import numpy as np
import torch

from benchmarks import gpu_step, gpu_step_phases, gpu_step_plan
from benchmarks.gpu_step_floor import Limits
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
    """Returns times by name, or errors, shares of the hottest rows and least times."""
    gpu_step_phases.BOTTOM, gpu_step_phases.TOP = (32, gpu_step_phases.DIM), (64, 32, 1)
    step = gpu_step_phases.Step(torch, library, [100, 3, 50], 16, seed, device="cpu")
    measurements = gpu_step_plan.Measurements(step, HostTimer(), np.random.default_rng(seed))
    results = {}
    gpu_step_plan.run_plan(measurements.plan(), lambda: 1e9, results.__setitem__)
    least = {kind: measurements.floors(kind, Limits(1e9, 1e9)) for kind in gpu_step_plan.KINDS}
    return gpu_step.figures(results), measurements.hottest_row_shares, least


def main():
    ctypes.CDLL(build.build_cublaslt())
    library, seed = build.open_library(build.build_emulation()), int(sys.argv[1])
    parity = {
        precision: {
            # Without TF32, which PyTorch does not use on a CPU.
            what: gpu_step_phases.parity(
                torch, library, seed, precision, 4, 32, "cpu", tf32=False, **variant
            )
            for what, variant in gpu_step_plan.PARITY.items()
        }
        for precision in gpu_step_phases.PRECISIONS
    }
    times, shares, least = measure(library, seed)
    print(json.dumps({
        "parity": parity, "times": times, "shares": shares, "least": least,
        "bad id": library.take_id_error(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
