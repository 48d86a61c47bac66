"""Trains small models, with or without the emulated GPU, and writes all values.

    python3 -m tests.support.emulated_ops.worker FILE CASES

CASES is JSON: {name: options of `run`}, and `emulated`, equal for all of them. FILE (.npz) receives
the arrays of `run` as `name/array`.
"""

from __future__ import annotations

import ctypes
import json
import sys

import numpy as np
import tensorflow as tf

from ops import loader
from ops.mlp import native as mlp
from tests.support.emulated_ops import margins
from tests.support.placement.executed import executed
from tests.support.training.small_model import build, state
from training.dense_phases import GpuKernels
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
    ctypes.CDLL(str(gpu.build_cublaslt()))  # where the kernels look for cuBLASLt
    tf.load_op_library(str(emulated.build_library()))
    library = ctypes.CDLL(str(gpu.build_emulation()))
    library.dlrm_seed_schedule(ctypes.c_uint64(seed))
    library.dlrm_launches.restype = ctypes.c_int64
    # The kernels are of TensorFlow's CPU device, but a model must choose those of a GPU.
    types = loader.kernel_types("Dlrm>MlpForward")["CPU"]
    mlp._kernels = lambda: ("GPU", types)
    return library.dlrm_launches


def run(
    launches, seed, steps, *, rate, scale=1.0, dynamic=False, bad_step=None, bad_value=None,
    kernels=None, multi_hot=False, **options,
):  # fmt: skip
    """Trains a model of `margins`.

    Args:
        launches: returns the number of kernels launched so far.
        seed: of weights and batches.
        steps: number of steps.
        rate: learning rate.
        scale, dynamic: of the loss.
        bad_step: number of a step with `bad_value` as a dense feature; None as value: without that
            step.
        kernels: fields of `GpuKernels`.
        multi_hot: use `margins.MULTI_HOT` instead of one id per table.
        options: of `small_model.build`.

    Returns:
        {name: array}: of each step, `losses`, `recorded` (the loss that the record has), `scales`
        after it, `skipped` (number of skipped steps) and `launches`; `before/k` and `after/k`, the
        values that training changes; `bad_before/k` and `bad_after/k`, those before and after the
        bad step; `distances` of the ReLUs' inputs from 0, before and after; `counted`, the number
        of kernels that the step launches according to `tests.support.placement.executed`.
    """
    bags = margins.MULTI_HOT if multi_hot else None
    generator = np.random.default_rng(seed)
    scale = LossScale(scale, dynamic=dynamic)
    model, embedding, optimizer, step = build(
        seed, scale=scale, kernels=GpuKernels(**(kernels or {})),
        sizes=margins.SIZES, bags=bags, **options,
    )  # fmt: skip
    margins.start(model, embedding, generator)
    made = margins.batches(steps, generator, bags)
    if bad_step is not None:
        batch = made.pop(bad_step)
        if bad_value is not None:
            made.insert(bad_step, margins.with_value(batch, float(bad_value)))
    graph = step.trace(made[0])
    counted = executed(graph).own if kernels and not options.get("xla") else 0
    distances = [margins.distance(model, embedding, made, bags)]

    def values(name):
        return {f"{name}/{k}": v for k, v in enumerate(state(model, embedding, optimizer))}

    results, rows = values("before"), []
    for index, (batch, after) in enumerate(zip(made, [*made[1:], None])):
        if index == bad_step:
            results |= values("bad_before")
        first = launches()
        loss = float(step(batch, rate, after)[0])
        recorded = step.last_loss()
        rows.append((loss, recorded, scale.value(), scale.skipped()[0], launches() - first))
        if index == bad_step:
            results |= values("bad_after")
    distances.append(margins.distance(model, embedding, made, bags))
    columns = dict(zip(("losses", "recorded", "scales", "skipped", "launches"), zip(*rows)))
    others = {"distances": distances, "counted": counted}
    return {**results, **values("after"), **columns, **others}


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
