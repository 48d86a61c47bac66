"""The MLP's GPU kernels, run by TensorFlow on the emulated GPU, against float64 NumPy."""

import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from ops import loader
from tests.gpu import build
from tests.support.paths import ROOT
from tests.support.reference import mlp_backward, mlp_forward

# Relative to the norm of the sums of the terms' magnitudes, as in tests/unit/ops/test_mlp.py.
TOLERANCE = {"float32": 2e-6, "tf32": 1e-3, "float16": 3e-3, "bfloat16": 0.02}
# (B, widths): rows that are padded and rows that are not, one layer, one row, single columns.
SHAPES = ((70, (13, 32, 24, 8)), (33, (16, 8, 1)), (9, (8, 8)), (5, (13, 7)), (1, (9, 5, 1, 3)))
CASES = {
    f"{precision} {batch} {widths} {'relu' if relu else 'linear'}": {
        "batch": batch, "widths": widths, "last_relu": relu, "tf32": precision == "tf32",
        "dtype": "float32" if precision == "tf32" else precision,
    }
    for precision, (batch, widths), relu in itertools.product(TOLERANCE, SHAPES, (False, True))
}  # fmt: skip
EMPTY = {
    f"{dtype} empty": {"batch": 0, "widths": (13, 16, 8), "last_relu": True, "tf32": True,
                       "dtype": dtype}
    for dtype in ("float32", "float16")
}  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory, seed_of):
    """Returns the values that `tests.support.emulated_ops.mlp_worker` wrote."""
    if build.cuda_include() is None:
        pytest.skip("CUDA's headers were not found: the GPU kernels are not built")
    if not loader.is_built():
        pytest.skip("the op library is not built")
    file = tmp_path_factory.mktemp("mlp") / "results.npz"
    cases = {
        name: {"seed": seed_of(name), **options} for name, options in {**CASES, **EMPTY}.items()
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.emulated_ops.mlp_worker", str(file),
         str(seed_of("threads")), json.dumps(cases)],
        cwd=ROOT, text=True, capture_output=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    with np.load(file) as stored:
        return dict(stored)


def close(ours, reference, size, tolerance):
    assert ours.shape == reference.shape
    error, scale = np.linalg.norm(ours - reference), np.linalg.norm(size)
    assert error <= tolerance * scale, (error, scale)


def values(results, case, name):
    """Returns the arrays `case/name/0`, `case/name/1`, ..."""
    found = []
    while f"{case}/{name}/{len(found)}" in results:
        found.append(results[f"{case}/{name}/{len(found)}"])
    return found


@pytest.mark.parametrize("case", CASES)
def test_layers_and_gradients_match_float64(case, results):
    precision, relu = case.split()[0], CASES[case]["last_relu"]
    tolerance = TOLERANCE[precision]
    kept = values(results, case, "activations")
    layers = list(zip(values(results, case, "kernels"), values(results, case, "biases")))
    assert [a.shape[1] for a in kept] == list(CASES[case]["widths"])
    for index, (before, after, (kernel, bias)) in enumerate(zip(kept, kept[1:], layers)):
        linear = index == len(layers) - 1 and not relu
        (expected,) = mlp_forward(before, [(kernel, bias)], last_linear=linear)[1:]
        close(after, expected, np.abs(before) @ np.abs(kernel) + np.abs(bias), tolerance)
    upstream = results[f"{case}/upstream"]
    expected = flat(mlp_backward(upstream, kept, layers, not relu))
    sizes = flat(
        mlp_backward(
            np.abs(upstream), [np.abs(kept[0]), *kept[1:]],
            [(np.abs(kernel), bias) for kernel, bias in layers], not relu,
        )
    )  # fmt: skip
    found = [results[f"{case}/x_gradient"], *values(results, case, "gradients")]
    assert len(found) == len(expected)
    for ours, reference, size in zip(found, expected, sizes):
        close(ours, reference, size, tolerance)


def flat(backward):
    """Flattens `mlp_backward`'s result: [gradient of x, of kernel 0, of bias 0, ...]."""
    x_gradient, gradients = backward
    return [x_gradient, *itertools.chain.from_iterable(gradients)]


@pytest.mark.parametrize("case", EMPTY)
def test_gradients_of_no_samples_are_zero(case, results):
    assert [a.shape[0] for a in values(results, case, "activations")] == [0, 0, 0]
    assert results[f"{case}/x_gradient"].shape == (0, 13)
    found = values(results, case, "gradients")
    assert [g.shape for g in found] == [(13, 16), (16,), (16, 8), (8,)]
    assert not any(g.any() for g in found)


@pytest.mark.parametrize("case", CASES)
def test_weight_gradients_are_slices_of_one_allocation(case, results):
    sizes = [4 * g.size for g in values(results, case, "gradients")]
    steps = [-(-size // 256) * 256 for size in sizes[:-1]]
    assert np.diff(results[f"{case}/addresses"].astype(np.int64)).tolist() == steps


def test_wrong_arguments_are_reported(results):
    found = json.loads(str(results["errors"]))
    for name, pattern in {
        "saved": r"expected saved \[\d+\], as MlpForward returned it, found shape \[\d+\]",
        "gradient": r"expected gradient \[4, 2\], found shape \[3,2\]",
        "bias": r"bias 1 \[2\].*\[3\]",
        "kernel": r"kernel 1 \[5, N >= 1\].*\[4,2\]",
    }.items():
        assert re.search(pattern, found[name])
