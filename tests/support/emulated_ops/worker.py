"""Trains small models, with or without the emulated GPU, and writes all values.

    python3 -m tests.support.emulated_ops.worker FILE CASES

CASES is JSON: {name: options of `run`}. FILE (.npz) receives `name/losses` and the rest of a run's
results, in one process: cases with `emulated` must be the only ones of theirs.
"""

from __future__ import annotations

import ctypes
import json
import sys

import numpy as np
import tensorflow as tf

from ops import loader
from tests.support.emulated_ops import margins
from tests.support.training.small_model import build, state
from training.precision import LossScale


def load_emulated_gpu(seed):
    """Makes the ops use the GPU kernels, on the emulation, from now on.

    Args:
        seed: of the order of the emulation's threads.

    Returns:
        A function that returns the number of kernels launched so far.
    """
    from tests.gpu import build as gpu
    from tests.support.emulated_ops import build as emulated

    loader.load()
    tf.load_op_library(str(emulated.build_library()))
    library = ctypes.CDLL(str(gpu.build_emulation()))
    library.dlrm_seed_schedule(ctypes.c_uint64(seed))
    library.dlrm_launches.restype = ctypes.c_int64
    return library.dlrm_launches


def run(launches, seed, steps, *, rate, scale=1.0, dynamic=False, bad=None, **options):
    """Trains a model of `margins`.

    Args:
        launches: returns the number of kernels launched so far.
        seed: of weights and batches.
        steps: number of steps.
        rate: learning rate.
        scale, dynamic: of the loss.
        bad: {step: value}: a dense feature of the step's batch is replaced.
        options: of `small_model.build`.

    Returns:
        {name: array}: of each step, `losses`, `scales` after it, `recorded` (the loss that the
        record has) and `launches`; `before/k` and `after/k`, the values that training changes,
        `bad/step/k` those after a step of `bad`; `distances` of the ReLUs' inputs from 0, before
        and after.
    """
    generator = np.random.default_rng(seed)
    scale = LossScale(scale, dynamic=dynamic)
    model, embedding, optimizer, step = build(seed, scale=scale, **options)
    margins.start(model, embedding, generator)
    made = margins.batches(steps, generator)
    for index, value in (bad or {}).items():
        made[int(index)] = margins.with_value(made[int(index)], value)
    distances = [margins.distance(model, embedding, made)]

    def values(name):
        return {f"{name}/{k}": v for k, v in enumerate(state(model, embedding, optimizer))}

    results, rows = values("before"), []
    for index, batch in enumerate(made):
        after, first = made[index + 1] if index + 1 < steps else None, launches()
        loss = float(step(batch, rate, after)[0])
        rows.append((loss, scale.value(), step.last_loss(), launches() - first))
        if str(index) in (bad or {}):
            results |= values(f"bad/{index}")
    distances.append(margins.distance(model, embedding, made))
    columns = dict(zip(("losses", "scales", "recorded", "launches"), zip(*rows)))
    return {**results, **values("after"), **columns, "distances": distances}


def main(file, cases):
    cases = json.loads(cases)
    (emulated,) = {options.pop("emulated", False) for options in cases.values()}
    seed = next(iter(cases.values()))["seed"]
    launches = load_emulated_gpu(seed) if emulated else lambda: 0
    results = {}
    for name, options in cases.items():
        for key, value in run(launches, **options).items():
            results[f"{name}/{key}"] = np.asarray(value)
    np.savez(file, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
