"""Checks of the MLP against float64, within a limit that follows from the number of roundings.

On a GPU the products are those of the cuBLASLt that PyTorch has loaded, so results are not the same
bits everywhere: `tests/e2e/ops/test_mlp_gpu.py` compares bits on a stand-in.
"""

import functools

import numpy as np

from tests.gpu import reference
from tests.gpu.interaction_checks import ACCUMULATION, require_within, run_all
from tests.gpu.launchers import BFLOAT16, DTYPE_NAMES, FLOAT16, FLOAT32
from tests.gpu.mlp_problem import Problem, rounded

# Error of a product of two numbers that were rounded to TF32, relative.
TF32 = 2.0**-10
# Smallest error of a value in 16 bits: half of float16's smallest number.
_TINY = 2.0**-25


class Limits:
    """Bounds of the errors of an MLP's results, relative to the magnitudes of their terms.

    Args:
        dtype: of the activations.
        tf32: whether float32 products round their operands to TF32.
    """

    def __init__(self, dtype, tf32):
        # Twice: a product may be rounded before its bias is added.
        self._rounding = 2.02 * reference.ROUNDING[dtype]
        self.product = ACCUMULATION + (TF32 if tf32 and dtype == FLOAT32 else 0.0)

    def stored(self, values, magnitude):
        """Returns the bound of values that were computed from such terms and stored."""
        return self._rounding * (np.abs(values) + self.product * magnitude) + (
            self.product * magnitude + _TINY
        )


def check_forward(problem, results, limits):
    """Compares each layer with float64, given the found activations of the layer below."""
    inputs, worst = problem.x, 0.0
    for layer, output in enumerate([*results.hidden, results.y]):
        kernel = rounded(problem.kernels[layer], problem.dtype)
        bias = rounded(problem.biases[layer], problem.dtype)
        expected = inputs @ kernel + bias
        magnitude = np.abs(inputs) @ np.abs(kernel) + np.abs(bias)
        # Of the sum before its ReLU; the bias may be added to the rounded product.
        bound = limits.stored(np.abs(expected) + np.abs(bias), magnitude)
        if layer + 1 < problem.layers or problem.last_relu:
            expected = np.maximum(expected, 0)
        worst = max(worst, require_within(f"layer {layer}", output, expected, bound))
        inputs = output
    return worst


def check_backward(problem, results, limits, input_gradient):
    """Compares all gradients with float64, given the found activations."""
    activations = [problem.x, *results.hidden]
    gradient, error, worst = problem.gradient, np.zeros_like(problem.gradient), 0.0
    if problem.last_relu:
        gradient = gradient * (results.y > 0)
    for layer in reversed(range(problem.layers)):
        x = np.abs(activations[layer])
        size = np.abs(gradient)
        worst = max(worst, require_within(
            f"kernel gradient {layer}", results.kernel_gradients[layer],
            activations[layer].T @ gradient, x.T @ (error + limits.product * size) + 2.0**-24,
        ))  # fmt: skip
        worst = max(worst, require_within(
            f"bias gradient {layer}", results.bias_gradients[layer], gradient.sum(0),
            (error + limits.product * size).sum(0) + 2.0**-24,
        ))  # fmt: skip
        if layer == 0 and not input_gradient:
            return worst
        kernel = rounded(problem.kernels[layer], problem.dtype)
        below = gradient @ kernel.T
        error = error @ np.abs(kernel).T + limits.stored(below, size @ np.abs(kernel).T)
        if layer > 0:
            passed = activations[layer] > 0
            below, error = below * passed, error * passed
        gradient = below
    return max(worst, require_within("input gradient", results.x_gradient, gradient, error))


def run_case(library, memory, rng, dtype, tf32, batch, widths, last_relu, input_gradient):
    """Runs training and inference on random inputs; returns the largest error / limit."""
    problem = Problem(library, memory, rng, batch, widths, dtype, last_relu, tf32)
    problem.kernels = [
        (rng.standard_normal(kernel.shape) * (2 / len(kernel)) ** 0.5).astype(np.float32)
        for kernel in problem.kernels
    ]
    problem.biases = [rng.standard_normal(len(b)).astype(np.float32) for b in problem.biases]
    problem.x = rounded(rng.standard_normal(problem.x.shape), dtype)
    problem.gradient = rounded(rng.standard_normal(problem.gradient.shape), dtype)
    limits = Limits(dtype, tf32)
    inference = problem.prepare().forward(training=False)
    results = problem.backward(problem.forward(), input_gradient)
    worst = check_forward(problem, results, limits)
    worst = max(worst, check_backward(problem, results, limits, input_gradient))
    # Their layers may use other algorithms, so they differ as two results with errors may.
    _, bound = forward_bound(problem, limits)
    return max(worst, require_within("inference", inference.y, results.y, 2 * bound))


def forward_bound(problem, limits):
    """Returns (y in float64, the bound of its error after all layers)."""
    values, error = problem.x, np.zeros_like(problem.x)
    for layer in range(problem.layers):
        kernel = rounded(problem.kernels[layer], problem.dtype)
        bias = rounded(problem.biases[layer], problem.dtype)
        magnitude = (np.abs(values) + error) @ np.abs(kernel) + np.abs(bias)
        values, error = values @ kernel + bias, error @ np.abs(kernel)
        error = error + limits.stored(np.abs(values) + error + np.abs(bias), magnitude)
        if layer + 1 < problem.layers or problem.last_relu:
            values = np.maximum(values, 0)
    return values, error


def cases(large):
    """Returns [(B, widths, last_relu, input_gradient)]; the emulation takes the first ones."""
    listed = [
        (0, (13, 16, 8), True, True), (1, (13, 64, 32, 16), True, False),
        (33, (13, 64, 32, 16), True, False), (40, (48, 64, 8), True, True),
        (17, (7, 33, 130, 3), False, True), (1, (1, 1, 1), False, True), (65, (24, 16), True, True),
        (9, (16, 24), False, False),
    ]  # fmt: skip
    if large:
        bottom, top = (13, 512, 256, 128), (480, 1024, 1024, 512, 256)
        listed += [(batch, bottom, True, False) for batch in (1, 64, 2048, 8193)]
        listed += [(batch, top, True, True) for batch in (1, 64, 2048, 4097)]
        listed += [(2048, (479, 1024, 1), False, True), (1000, (415, 511, 257), True, True)]
    return listed


def checks(library, memory, large):
    """Yields (name, function of a random generator that returns (cases, largest error / limit))."""
    for dtype in (FLOAT32, FLOAT16, BFLOAT16):
        for tf32 in (False, True)[: 1 + (dtype == FLOAT32)]:
            yield (
                f"MLP {DTYPE_NAMES[dtype]}{' TF32' * tf32}",
                lambda rng, dtype=dtype, tf32=tf32: run_all(
                    functools.partial(run_case, library, memory, rng, dtype, tf32), cases(large)
                ),
            )
