"""Training with the GPU kernels, which run on an emulated GPU, compared with training on the CPU."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ops import loader
from tests.gpu import build
from tests.support.emulated_ops import build as emulated_ops
from tests.support.paths import ROOT

STEPS, BAD = 100, 50
OPTIMIZERS = {
    "sgd": {"rate": 0.05, "embedding_rate": 10.0},
    "adagrad": {"optimizer": "adagrad", "embedding_optimizer": "adagrad",
                "rate": 0.001, "embedding_rate": 2.0},
    "adam": {"optimizer": "adam", "embedding_optimizer": "rowwise_adagrad",
             "rate": 0.0003, "embedding_rate": 2.0},
}  # fmt: skip
FLOAT16, BFLOAT16 = {"dtype": "float16", "scale": 1024.0}, {"dtype": "bfloat16"}
SKIPS = {"dtype": "float16", "scale": 2.0**15, "dynamic": True}
GPU = {"emulated": True, "device": "CPU:0", "custom_interact": True}
FUSED = {**GPU, "fused_mlp": True, "tf32": False, "kernels": {"fused": True, "update": True}}
TAPE = {**GPU, "kernels": {"update": True}}
# {case: options of the worker}. The first words name the case of CPU with which it is compared.
CPU = {
    "sgd": {}, "adagrad": {}, "adam": {}, "sgd bad": {"bad_step": BAD},
    "sgd float16": FLOAT16, "sgd bfloat16": BFLOAT16,
}  # fmt: skip
EMULATED = {
    "sgd fused float32": {**FUSED, "deterministic": True},
    "sgd fused float32 atomics": FUSED,
    "sgd fused float32 side stream": {**FUSED, "deterministic": True, "side_stream": True},
    "sgd fused float16": {**FUSED, **FLOAT16},
    "sgd fused bfloat16": {**FUSED, **BFLOAT16},
    "adagrad fused float32": FUSED,
    "adagrad fused float16": {**FUSED, **FLOAT16},
    "adam fused float32": FUSED,
    "adam fused float16": {**FUSED, **FLOAT16},
    "sgd tape float16": {**TAPE, **FLOAT16},
    "adam tape float32": TAPE,
}
OVERFLOW = {
    "sgd bad fused float16": {**FUSED, **SKIPS, "bad_step": BAD, "bad_value": 1e5},
    "sgd bad tape float16": {**TAPE, **SKIPS, "bad_step": BAD, "bad_value": 1e5},
}
NAN = {
    "sgd nan fused float32": {**FUSED, "bad_step": BAD, "bad_value": "nan"},
    "sgd nan fused float16": {**FUSED, **FLOAT16, "bad_step": BAD, "bad_value": "nan"},
    "sgd nan tape float32": {**TAPE, "bad_step": BAD, "bad_value": "nan"},
}
OVERFLOW["sgd bad fused float16 side stream"] = {
    **OVERFLOW["sgd bad fused float16"],
    "side_stream": True,
}
# Largest deviations from float32: of a loss, and of a variable relative to its change.
LOSSES = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}
CHANGES = {"float32": 1e-4, "float16": 5e-2, "bfloat16": 1e-1}


def run(file, seed, cases):
    """Runs a worker; returns {case: {name: array, or list of the arrays name/0, name/1, ...}}."""
    cases = {
        name: {"seed": seed, "steps": STEPS, **OPTIMIZERS[name.split()[0]], **options}
        for name, options in cases.items()
    }
    worker = "tests.support.emulated_ops.worker"
    preloaded = {"LD_PRELOAD": str(emulated_ops.build_preloaded())}
    done = subprocess.run(
        [sys.executable, "-m", worker, str(file), json.dumps(cases)], cwd=ROOT, text=True,
        env={**os.environ, **preloaded}, capture_output=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    results = {name: {} for name in cases}
    with np.load(file) as stored:
        for key in stored.files:
            case, name, *number = key.split("/")
            if number:
                results[case].setdefault(name, []).append(stored[key])
            else:
                results[case][name] = stored[key]
    return results


@pytest.fixture(scope="module")
def trained(tmp_path_factory, seed_of):
    """Returns {case: results of the worker}."""
    if build.cuda_include() is None:
        pytest.skip("CUDA's headers were not found: the GPU kernels are not run, even emulated")
    if not loader.is_built():
        pytest.skip("the op library is not built")
    folder, seed = tmp_path_factory.mktemp("emulated"), seed_of("emulated_gpu_step")
    results = run(folder / "cpu.npz", seed, CPU)
    return results | run(folder / "gpu.npz", seed, {**EMULATED, **OVERFLOW, **NAN})


def dtype_of(case):
    return next(word for word in case.split() if word in LOSSES)


def reference_of(case):
    """Returns the name of the float32 case of the CPU."""
    words = case.split()
    return "sgd bad" if "bad" in words else words[0]


def test_side_stream_changes_no_value(trained):
    ours, expected = trained["sgd fused float32 side stream"], trained["sgd fused float32"]
    np.testing.assert_array_equal(ours["losses"], expected["losses"])
    for found, after in zip(ours["after"], expected["after"]):
        np.testing.assert_array_equal(found, after)


def loss_deviation(ours, expected):
    return np.abs(ours - expected).max()


def change_deviations(ours, expected):
    """Returns |ours - expected| / |expected - initial| of each variable, 0 if it did not change."""
    return [
        np.linalg.norm(found - after) / max(np.linalg.norm(after - before), 1e-30)
        for found, after, before in zip(ours["after"], expected["after"], expected["before"])
    ]


@pytest.mark.parametrize("case", CPU)
def test_no_rounding_error_switches_a_unit(trained, case):
    assert min(trained[case]["distances"]) > 0.5


@pytest.mark.parametrize("case", EMULATED)
def test_training_equals_the_cpu(trained, case):
    ours, expected, dtype = trained[case], trained[reference_of(case)], dtype_of(case)
    for found, initial in zip(ours["before"], expected["before"]):
        np.testing.assert_array_equal(found, initial)
    assert loss_deviation(ours["losses"], expected["losses"]) <= LOSSES[dtype]
    np.testing.assert_array_equal(ours["recorded"], ours["losses"])
    assert max(change_deviations(ours, expected)) <= CHANGES[dtype]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_fused_kernels_round_no_more_than_tensorflow(trained, dtype):
    """The gradients of weights and the loss are float32 in the fused kernels."""
    expected = trained["sgd"]
    fused, theirs = trained[f"sgd fused {dtype}"], trained[f"sgd {dtype}"]
    for found, limit in zip(change_deviations(fused, expected), change_deviations(theirs, expected)):
        assert found <= 1.5 * limit + CHANGES["float32"]


@pytest.mark.parametrize("case", OVERFLOW)
def test_overflow_skips_the_step_and_halves_the_scale(trained, case):
    ours, expected = trained[case], trained["sgd bad"]
    for after, before in zip(ours["bad_after"], ours["bad_before"]):
        assert after.tobytes() == before.tobytes()
    initial = OVERFLOW[case]["scale"]
    np.testing.assert_array_equal(ours["scales"][:BAD], initial)
    np.testing.assert_array_equal(ours["scales"][BAD:], initial / 2)
    np.testing.assert_array_equal(ours["skipped"], np.arange(STEPS) >= BAD)
    losses = np.delete(ours["losses"], BAD)
    assert loss_deviation(losses, expected["losses"]) <= LOSSES["float16"]
    assert max(change_deviations(ours, expected)) <= CHANGES["float16"]


@pytest.mark.parametrize("case", NAN)
def test_nan_is_recorded_in_its_step(trained, case):
    ours = trained[case]
    np.testing.assert_array_equal(np.isnan(ours["recorded"]), np.arange(STEPS) >= BAD)
    # The stand-in for cuBLASLt turns NaN into 0, so that the loss itself does not show it.
    assert np.isnan(ours["losses"][BAD]) == ("tape" in case)


@pytest.mark.parametrize("case", [*EMULATED, *OVERFLOW])
def test_every_step_launches_the_same_kernels(trained, case):
    launches = trained[case]["launches"]
    assert launches.min() == launches.max() > 5
