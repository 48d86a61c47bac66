"""The optimizers of the MLPs equal a float64 reference with the formulas of Keras 2.15."""

import numpy as np
import pytest
import tensorflow as tf

from training.optimizers import OPTIMIZERS


class SGD:
    def change(self, gradient, rate):
        return rate * gradient


class Adagrad:
    """Duchi et al. 2011: w -= rate g / sqrt(sum of g^2 + epsilon)."""

    def __init__(self):
        self._sum = 0.0

    def change(self, gradient, rate):
        self._sum = self._sum + gradient**2
        return rate * gradient / np.sqrt(self._sum + 1e-8)


class Adam:
    """Kingma and Ba 2015, section 2's more efficient order, with epsilon 1e-7."""

    def __init__(self):
        self._step, self._mean, self._square = 0, 0.0, 0.0

    def change(self, gradient, rate):
        self._step += 1
        self._mean = 0.9 * self._mean + 0.1 * gradient
        self._square = 0.999 * self._square + 0.001 * gradient**2
        rate *= np.sqrt(1 - 0.999**self._step) / (1 - 0.9**self._step)
        return rate * self._mean / (np.sqrt(self._square) + 1e-7)


REFERENCES = {"sgd": SGD, "adagrad": Adagrad, "adam": Adam}


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_equal_the_formula_without_a_second_trace(name, how, rng):
    """Random gradients, many of them 0 or tiny, and another learning rate at each step."""
    initial = [
        rng.normal(size=rng.integers(1, 9, rank)).astype(np.float32) for rank in (2, 1, 2, 1)
    ]
    variables = [tf.Variable(value) for value in initial]
    optimizer = OPTIMIZERS[name](variables)
    references = [REFERENCES[name]() for _ in variables]
    expected = [value.astype(np.float64) for value in initial]
    moved = [np.zeros(value.shape) for value in initial]
    apply = optimizer.apply
    if how != "eager":
        apply = tf.function(apply, jit_compile=how == "xla", autograph=False)
    for step in range(30):
        rate = np.float32(rng.uniform(0.02, 0.1))
        gradients = [
            (rng.normal(size=value.shape) * 10.0 ** rng.integers(-7, 2, value.shape)
             * rng.integers(0, 2, value.shape)).astype(np.float32)
            for value in initial
        ]  # fmt: skip
        if step == 0:
            for gradient in gradients:
                gradient.flat[0] = 1.0  # So that every variable moves.
        apply([tf.constant(gradient) for gradient in gradients], tf.constant(rate))
        for index, gradient in enumerate(gradients):
            change = references[index].change(gradient.astype(np.float64), float(rate))
            expected[index] = expected[index] - change
            moved[index] += np.abs(change)
        assert int(optimizer.variables[0]) == step + 1
    if how != "eager":
        assert apply.experimental_get_tracing_count() == 1
    for variable, value, distance in zip(variables, expected, moved):
        # Each step rounds a float32 weight of about 1.
        np.testing.assert_allclose(variable.numpy() - value, 0, atol=3e-6)
        assert np.all(np.abs(variable.numpy() - value) <= 2e-5 * distance + 3e-6)
        assert distance.max() > 0.01


@pytest.mark.parametrize(
    ("name", "states"), [("sgd", []), ("adagrad", ["accumulator"]), ("adam", ["m", "v"])]
)
def test_variables_have_the_names_in_checkpoints(name, states):
    variables = [tf.Variable(tf.ones([2, 3]), name="kernel"), tf.Variable([1.0], name="bias")]
    optimizer = OPTIMIZERS[name](variables)
    found = [variable.name for variable in optimizer.variables]
    assert found == [
        "iteration:0", *(f"{state}_{name}:0" for name in ("kernel", "bias") for state in states)
    ]  # fmt: skip
    assert [v.dtype for v in optimizer.variables[1:]] == [tf.float32] * 2 * len(states)
    assert not any(np.any(v.numpy()) for v in optimizer.variables)


def test_apply_refuses_a_missing_gradient():
    optimizer = OPTIMIZERS["sgd"]([tf.Variable(1.0), tf.Variable(2.0)])
    with pytest.raises(ValueError, match=r"2.*1"):
        optimizer.apply([tf.constant(1.0)], tf.constant(0.1))
