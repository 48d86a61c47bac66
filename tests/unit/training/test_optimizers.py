"""The optimizers of the MLPs equal a float64 reference."""

import numpy as np
import pytest
import tensorflow as tf

from model.embedding.optimizers import OptimizerError
from training.optimizers import OPTIMIZERS


class SGD:
    def change(self, gradient, rate):
        return rate * gradient


class Adagrad:
    """Duchi et al. 2011: w -= rate g / (sqrt(sum of g^2) + epsilon)."""

    def __init__(self, epsilon=1e-8, initial_accumulator=0.0):
        self._sum, self._epsilon = initial_accumulator, epsilon

    def change(self, gradient, rate):
        self._sum = self._sum + gradient**2
        return rate * gradient / (np.sqrt(self._sum) + self._epsilon)


class Adam:
    """Kingma and Ba 2015, section 2's more efficient order."""

    def __init__(self, beta1=0.9, beta2=0.999, epsilon=1e-7):
        self._step, self._mean, self._square = 0, 0.0, 0.0
        self._betas, self._epsilon = (beta1, beta2), epsilon

    def change(self, gradient, rate):
        self._step += 1
        first, second = self._betas
        self._mean = first * self._mean + (1 - first) * gradient
        self._square = second * self._square + (1 - second) * gradient**2
        rate *= np.sqrt(1 - second**self._step) / (1 - first**self._step)
        return rate * self._mean / (np.sqrt(self._square) + self._epsilon)


REFERENCES = {"sgd": SGD, "adagrad": Adagrad, "adam": Adam}


def random_options(name, rng):
    """Returns options that change results."""
    if name == "sgd":
        return {}
    options = {"epsilon": float(10.0 ** rng.uniform(-4, -1))}
    if name == "adagrad":
        return {**options, "initial_accumulator": float(rng.uniform(0.01, 1))}
    return {**options, "beta1": float(rng.uniform(0, 0.95)), "beta2": float(rng.uniform(0.5, 0.99))}


@pytest.mark.parametrize("defaults", [True, False], ids=["defaults", "options"])
@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_equal_the_formula_without_a_second_trace(name, how, defaults, rng):
    """100 random gradients, many of them 0 or tiny, and another learning rate at each step."""
    steps, options = 100, {} if defaults else random_options(name, rng)
    initial = [
        rng.normal(size=rng.integers(1, 9, rank)).astype(np.float32) for rank in (2, 1, 2, 1)
    ]
    variables = [tf.Variable(value) for value in initial]
    optimizer = OPTIMIZERS[name](variables, options)
    references = [REFERENCES[name](**options) for _ in variables]
    expected = [value.astype(np.float64) for value in initial]
    moved = [np.zeros(value.shape) for value in initial]
    apply = optimizer.apply
    if how != "eager":
        apply = tf.function(apply, jit_compile=how == "xla", autograph=False)
    for step in range(steps):
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
    for variable, start, value, distance in zip(variables, initial, expected, moved):
        # Each step rounds the weight.
        rounding = steps * 2.0**-25 * (np.abs(start) + distance)
        assert np.all(np.abs(variable.numpy() - value) <= 2e-5 * distance + rounding + 1e-7)
        assert distance.max() > 0.01


@pytest.mark.parametrize("name", ["adagrad", "adam"])
def test_options_change_the_result(name, rng):
    """So that the test above can tell the options from the defaults."""
    results = []
    for options in ({}, random_options(name, rng)):
        variable = tf.Variable([1.0])
        optimizer = OPTIMIZERS[name]([variable], options)
        for gradient in (0.5, -0.3):
            optimizer.apply([tf.constant([gradient])], tf.constant(0.1))
        results.append(variable.numpy()[0])
    assert abs(results[0] - results[1]) > 1e-4


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("sgd", {"epsilon": 1.0}, "epsilon"),
        ("adagrad", {"beta1": 0.5}, "beta1"),
        ("adagrad", {"epsilon": 0.0}, 0.0),
        ("adagrad", {"initial_accumulator": -1.0}, -1.0),
        ("adam", {"beta1": 1.0}, 1.0),
        ("adam", {"beta2": 1 - 1e-9}, 1 - 1e-9),
        ("adam", {"beta2": float("nan")}, None),
    ],
)
def test_wrong_options_are_refused(name, options, found):
    with pytest.raises(OptimizerError) as caught:
        OPTIMIZERS[name]([tf.Variable(1.0)], options)
    assert found is None or caught.value.found == found


def test_accumulators_start_at_their_option():
    optimizer = OPTIMIZERS["adagrad"]([tf.Variable([1.0, 2.0])], {"initial_accumulator": 0.25})
    np.testing.assert_array_equal(optimizer.variables[1].numpy(), [0.25, 0.25])


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
