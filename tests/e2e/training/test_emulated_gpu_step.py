"""Training with the GPU kernels, which run on an emulated GPU, compared with training on the CPU."""

import functools
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.gpu import build
from tests.support.paths import ROOT

STEPS = 100
SGD, ADAGRAD, ADAM = {"rate": 0.05}, {"optimizer": "adagrad", "rate": 0.02}, {
    "optimizer": "adam", "rate": 0.005
}  # fmt: skip
# Trained on the CPU with TensorFlow's ops.
EXPECTED = {
    "sgd": SGD, "adagrad": ADAGRAD, "adam": ADAM,
    "sgd, float16": {**SGD, "dtype": "float16", "scale": 1024.0},
    "sgd, bfloat16": {**SGD, "dtype": "bfloat16"},
}  # fmt: skip
TAPE = {"custom_interact": True, "emulated": True}
EMULATED = {
    "tape, float32": {**SGD, **TAPE},
    "tape, float16": {**SGD, **TAPE, "dtype": "float16", "scale": 1024.0},
    "tape, bfloat16": {**SGD, **TAPE, "dtype": "bfloat16"},
}
# Deviations from training in float32: of losses, and of values relative to their change.
LOSS = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}
CHANGE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-1}


class Runs:
    """Results of runs of `tests.support.emulated_ops.worker` in one process."""

    def __init__(self, file, seed, cases):
        cases = {name: {"seed": seed, "steps": STEPS, **case} for name, case in cases.items()}
        worker = "tests.support.emulated_ops.worker"
        done = subprocess.run(
            [sys.executable, "-m", worker, str(file), json.dumps(cases)], cwd=ROOT, text=True,
            capture_output=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-5000:]
        with np.load(file) as stored:
            self._arrays = dict(stored)

    def __call__(self, case, name):
        """Returns an array, or the list of those whose names are `name` and a number."""
        if f"{case}/{name}" in self._arrays:
            return self._arrays[f"{case}/{name}"]
        return [self._arrays[f"{case}/{name}/{k}"]
                for k in range(len(self._arrays)) if f"{case}/{name}/{k}" in self._arrays]  # fmt: skip
