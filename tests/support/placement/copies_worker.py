"""Trains small models on the fake GPU and prints the calls of each step.

    python3 -m tests.support.placement.copies_worker FOLDER CASES

FOLDER has the libraries of `fake_gpu`. CASES is JSON: {name: options of `small_model.build`}, with
"skips", whether steps that are not finite are skipped, "two_ranks", see `TwoRanks`, and the fields
of "kernels".
Prints JSON: {name: a list of calls for each step, and for the wait for the last}. A call is [kind,
detail, bytes, whether it is on the compute stream].
"""

import collections
import ctypes
import json
import pathlib
import sys

import numpy as np
import tensorflow as tf

from ops import loader
from tests.support.placement.fake_gpu import LIBRARY
from tests.support.placement.two_ranks import TwoRanks
from tests.support.training.small_model import batches, build
from training.dense_phases import GpuKernels
from training.precision import LossScale

# The first steps trace, allocate memory and compile.
WARM_UP, STEPS = 3, 4


class Calls:
    """Reads the calls that the fake CUDA records."""

    def __init__(self, folder):
        self._library = ctypes.CDLL(str(folder / LIBRARY))
        self._file = folder / "calls"

    def reset(self):
        self._library.fake_calls_reset()

    def read(self):
        """Returns the calls since the last reset."""
        if self._library.fake_calls_write(str(self._file).encode()) < 0:
            raise RuntimeError("fake CUDA: more calls than it can record")
        lines = self._file.read_text().splitlines()
        calls = [line.split("\t") for line in lines]
        streams = collections.Counter(stream for kind, *_, stream in calls if kind == "launch")
        compute = max(streams, key=streams.get, default=None)
        return [
            [kind, detail, int(size), stream == compute] for kind, detail, size, stream in calls
        ]


def steps(calls, options):
    """Returns the calls of each step, and those of a wait for the last."""
    # As a reader makes them.
    with tf.device("CPU:0"):
        made = batches(WARM_UP + STEPS + 1, np.random.default_rng(0))
    scale = LossScale(1024.0, dynamic=options.pop("skips", False))
    cluster = TwoRanks() if options.pop("two_ranks", False) else None
    kernels = GpuKernels(**options.pop("kernels", {}))
    *_, step = build(0, scale=scale, cluster=cluster, kernels=kernels, **options)
    for batch, after in zip(made[:WARM_UP], made[1:]):
        step(batch, 0.1, after)
    step.wait()
    found = []
    for batch, after in zip(made[WARM_UP:-1], made[WARM_UP + 1 :]):
        calls.reset()
        step(batch, 0.1, after)
        found.append(calls.read())
    calls.reset()
    step.wait()
    found.append(calls.read())
    return found


def main(folder, cases):
    folder = pathlib.Path(folder)
    loader._FOLDER = folder
    calls = Calls(folder)
    assert tf.config.list_physical_devices("GPU"), "TensorFlow lists no GPU"
    print(json.dumps({name: steps(calls, options) for name, options in json.loads(cases).items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
