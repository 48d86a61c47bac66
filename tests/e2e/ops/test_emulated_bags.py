"""The bag ops' GPU kernels, run by TensorFlow on the emulated GPU, against float64 and the CPU."""

import functools
import itertools
import json

import numpy as np
import pytest

from model.embedding.optimizers import OPTIMIZERS
from ops import loader
from tests.gpu import build
from tests.support.row_optimizers import OPTIONS, ReferenceRows

ROUNDING = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
CASES = {
    f"{name} {'slots' if slots else 'offsets'} {dtype}{' any order' * (not deterministic)}": {
        "optimizer": name, "slots": slots, "dtype": dtype, "deterministic": deterministic,
        "batch": 70, "id_type": "int32" if slots else "int64", "side_stream": dtype == "float16",
    }
    for name, slots, dtype, deterministic in itertools.product(
        OPTIMIZERS, (True, False), ROUNDING, (True, False)
    )
    if deterministic or name == "sgd"
}  # fmt: skip
CASES["empty"] = {**CASES["sgd slots float32"], "batch": 0}


@pytest.fixture(scope="module")
def results(tmp_path_factory, seed_of):
    """Returns ({name: options}, the arrays that the worker wrote)."""
    if build.cuda_include() is None:
        pytest.skip("CUDA's headers were not found: the GPU kernels are not built")
    if not loader.is_built():
        pytest.skip("the op library is not built")
    from tests.support.emulated_ops.build import run_worker

    file = tmp_path_factory.mktemp("bags") / "results.npz"
    cases = {name: {"seed": seed_of(name), **options} for name, options in CASES.items()}
    done = run_worker("bags_worker", str(file), str(seed_of("threads")), json.dumps(cases))
    assert done.returncode == 0, done.stderr[-5000:]
    with np.load(file) as stored:
        return cases, dict(stored)


@pytest.fixture
def case(results, request):
    """Returns (options of a case, its inputs, its results)."""
    from tests.support.emulated_ops.bags_worker import problem

    options, prefix = results[0][request.param], f"{request.param}/"
    found = {
        key[len(prefix) :]: value for key, value in results[1].items() if key.startswith(prefix)
    }
    return options, problem(**options), found


every_case = pytest.mark.parametrize("case", CASES, indirect=True)


@every_case
def test_lookup_equals_float64(case):
    options, inputs, found = case
    used, bags = inputs.numbers >= 0, len(inputs.factors)
    sums, magnitudes = np.zeros((2, bags, inputs.rows.shape[1]))
    rows = inputs.rows.astype(np.float64)[inputs.numbers[used]]
    np.add.at(sums, inputs.bags[used], rows)
    np.add.at(magnitudes, inputs.bags[used], np.abs(rows))
    sums, magnitudes = sums * inputs.factors[:, None], magnitudes * inputs.factors[:, None]
    limit = 8 * 2.0**-24 * magnitudes + 1.01 * ROUNDING[options["dtype"]] * np.abs(sums) + 1e-7
    assert (np.abs(found["vectors"].reshape(sums.shape) - sums) <= limit).all()


@every_case
def test_update_equals_float64(case):
    from tests.support.emulated_ops.bags_worker import RATE, SCALE

    options, inputs, found = case
    name, used = options["optimizer"], inputs.numbers >= 0
    reference = ReferenceRows(name, inputs.rows, inputs.states, OPTIONS.get(name))
    gradients = rounded(inputs.gradients, options["dtype"]) * inputs.factors[:, None]
    reference.scatter(inputs.numbers[used], gradients[inputs.bags[used]], RATE, SCALE)
    np.testing.assert_allclose(found["rows"], reference.rows, rtol=1e-4, atol=1e-4)
    for k, expected in enumerate(reference.states):
        np.testing.assert_allclose(found[f"state/{k}"], expected, rtol=1e-4, atol=1e-4)


def rounded(gradients, dtype):
    """Returns gradients [B, T, D] in dtype as float64 [B T, D]."""
    import tensorflow as tf

    return tf.cast(tf.cast(gradients, dtype), tf.float64).numpy().reshape(-1, gradients.shape[-1])


@every_case
def test_results_equal_the_cpu_kernels(case):
    from tests.support.emulated_ops.bags_worker import run

    options, inputs, found = case
    expected = run(inputs, **options)
    assert set(found) == set(expected)
    in_order = options["deterministic"] and options["optimizer"] != "rowwise_adagrad"
    compare = np.testing.assert_array_equal if in_order else functools.partial(
        np.testing.assert_allclose, rtol=1e-5, atol=1e-5
    )  # fmt: skip
    np.testing.assert_array_equal(found["vectors"], expected["vectors"])
    for key, value in expected.items():
        compare(found[key], value)


def test_bad_ids_are_reported_by_the_next_op(results):
    errors = json.loads(str(results[1]["errors"]))
    assert "table 1, sample 1: id 3 is not in [0, 3)" in errors["too large"]
    assert "table 1, sample 1: id -1 is not in [0, 3)" in errors["empty"]
    assert "table 0, sample 1: id 50 is not in [0, 50)" in errors["offsets"]
    assert "[2,11]" in errors["shape"] or "12" in errors["shape"]
