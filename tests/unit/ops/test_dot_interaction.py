"""The dot interaction against float64 scalar products, for every type, shape and CPU kernel."""

import numpy as np
import pytest
import tensorflow as tf

from ops import loader
from ops.dot_interaction import (
    dot_interaction,
    dot_interaction_stacked,
    dot_interaction_tensorflow,
    output_width,
)
from tests.gpu.reference import interaction, interaction_gradient

# All remainders of blocks of four rows; dimensions that fill registers and that do not.
FEATURES = (1, 2, 27, 33, 64)
DIMENSIONS = (1, 4, 127, 128, 256)
DTYPES = (tf.float32, tf.bfloat16, tf.float16)
# Half a unit in the last place, relative, and the absolute error of subnormal numbers.
EPSILON = {tf.float32: 2.0**-24, tf.bfloat16: 2.0**-8, tf.float16: 2.0**-11}
TINY = {tf.float32: 1e-37, tf.bfloat16: 1e-37, tf.float16: 2.0**-24}


def random_tensor(rng, shape, dtype):
    return tf.cast(rng.standard_normal(shape, dtype=np.float32), dtype)


def float64(tensor):
    return tf.cast(tensor, tf.float64).numpy()


def assert_rounded(found, expected, size, terms, dtype):
    """Checks `found` within the error of `terms` float32 additions and one rounding to dtype."""
    accumulated = (terms + 2) * 2.0**-23 * size
    bound = accumulated + EPSILON[dtype] * (np.abs(expected) + accumulated) + TINY[dtype]
    error = np.abs(float64(found) - expected)
    worst = np.unravel_index(np.argmax(error - bound), error.shape) if error.size else None
    assert error.size == 0 or (error <= bound).all(), (
        f"element {worst}: found {float64(found)[worst]}, expected {expected[worst]}, "
        f"allowed {bound[worst]}"
    )


def check(x, g, dtype):
    """Checks output and gradients of both native ops on x [B, F, D], given g [B, W]."""
    features, dimension = x.shape[1:]
    bottom, vectors = x[:, 0], x[:, 1:]
    with tf.GradientTape() as tape:
        tape.watch([bottom, vectors])
        y = dot_interaction(bottom, vectors)
    assert y.dtype == dtype and y.shape == g.shape
    bottom_gradient, vectors_gradient = tape.gradient(y, [bottom, vectors], g)
    with tf.GradientTape() as tape:
        tape.watch(x)
        stacked = dot_interaction_stacked(x)
    stacked_gradient = tape.gradient(stacked, x, g)
    gradient = tf.concat([bottom_gradient[:, tf.newaxis], vectors_gradient], axis=1)
    # Both ops run the same kernel on other addresses: equal bits.
    assert tf.reduce_all(stacked == y) and tf.reduce_all(stacked_gradient == gradient)
    x, g, y, gradient = (float64(a) for a in (x, g, y, gradient))
    assert_rounded(y, *interaction(x), dimension, dtype)
    assert_rounded(gradient, *interaction_gradient(x, g), features, dtype)
    used = dimension + features * (features - 1) // 2
    np.testing.assert_array_equal(y[:, :dimension], x[:, 0])
    np.testing.assert_array_equal(y[:, used:], 0.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_dot_interaction_matches_scalar_products(isa, dtype, dimension, rng):
    for features in FEATURES:
        for batch in (0, 3):
            x = random_tensor(rng, (batch, features, dimension), dtype)
            g = random_tensor(rng, (batch, output_width(features, dimension)), dtype)
            check(x, g, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize(("batch", "features", "dimension"), [(130, 27, 128), (255, 33, 4)])
def test_dot_interaction_splits_a_batch_over_threads(isa, dtype, batch, features, dimension, rng):
    x = random_tensor(rng, (batch, features, dimension), dtype)
    g = random_tensor(rng, (batch, output_width(features, dimension)), dtype)
    check(x, g, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_dot_interaction_propagates_non_finite_values(isa, dtype, value, rng):
    """A non-finite element makes all pairs of its vector, and no others, non-finite."""
    for features, dimension in ((2, 1), (27, 128), (5, 21)):
        x = rng.standard_normal((features, features, dimension), dtype=np.float32)
        rows = np.arange(features)
        x[rows, rows, rng.integers(dimension, size=features)] = value  # vector b of sample b
        x = tf.cast(x, dtype)
        i, j = np.tril_indices(features, -1)
        hit = (i == rows[:, None]) | (j == rows[:, None])
        for y in (
            dot_interaction(x[:, 0], x[:, 1:]),
            dot_interaction_stacked(x),
            dot_interaction_tensorflow(x[:, 0], x[:, 1:]),
        ):
            y = float64(y)
            np.testing.assert_array_equal(y[:, :dimension], float64(x[:, 0]))
            np.testing.assert_array_equal(~np.isfinite(y[:, dimension : dimension + len(i)]), hit)
            np.testing.assert_array_equal(y[:, dimension + len(i) :], 0.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_gradient_keeps_non_finite_values_in_their_columns(isa, dtype):
    x = np.ones((1, 5, 40), np.float32)
    x[0, 2, 6], x[0, 3, 7], x[0, 1, 39] = np.nan, -np.inf, np.inf
    features = tf.cast(x, dtype)
    with tf.GradientTape() as tape:
        tape.watch(features)
        output = dot_interaction_stacked(features)
    found = float64(tape.gradient(output, features, tf.ones_like(output)))[0]
    # A row's gradient is the sum of the other rows; row 0 adds 1 for its copy.
    with np.errstate(invalid="ignore"):
        expected = x[0].sum(axis=0) - x[0]
    expected[0] += 1
    # A kernel may multiply a row's own non-finite value by the zero on the diagonal.
    for row, column in ((2, 6), (3, 7), (1, 39)):
        expected[row, column] = found[row, column]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize(
    ("features", "dimension", "compiled"),
    [(27, 128, False), (5, 7, False), (1, 3, False), (27, 128, True)],
)
def test_tensorflow_formulation_matches_scalar_products(dtype, compiled, features, dimension, rng):
    x = random_tensor(rng, (9, features, dimension), dtype)
    g = random_tensor(rng, (9, output_width(features, dimension)), dtype)

    @tf.function(jit_compile=compiled)
    def run(bottom, vectors, g):
        with tf.GradientTape() as tape:
            tape.watch([bottom, vectors])
            y = dot_interaction_tensorflow(bottom, vectors)
        return y, tape.gradient(y, [bottom, vectors], g)

    y, (bottom_gradient, vectors_gradient) = run(x[:, 0], x[:, 1:], g)
    assert y.dtype == dtype
    assert_rounded(float64(y), *interaction(float64(x)), dimension, dtype)
    gradient = np.concatenate(
        [float64(bottom_gradient)[:, np.newaxis], float64(vectors_gradient)], axis=1
    )
    expected, size = interaction_gradient(float64(x), float64(g))
    # A 16-bit gradient is a sum of two rounded gradients.
    np.testing.assert_allclose(gradient, expected, atol=3 * EPSILON[dtype] * size.max())


def test_output_width_is_static_for_an_unknown_batch_size():
    @tf.function(input_signature=[tf.TensorSpec([None, 27, 128]), tf.TensorSpec([None, 128])])
    def run(features, bottom):
        stacked = dot_interaction_stacked(features)
        assert stacked.shape.as_list() == [None, 480]
        split = dot_interaction(bottom, features[:, 1:])
        assert split.shape.as_list() == [None, 480]
        return split

    assert run(tf.zeros([0, 27, 128]), tf.zeros([0, 128])).shape == (0, 480)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dot_interaction(tf.zeros([2, 4]), tf.zeros([3, 5, 4])), r"\[2,4\].*\[3,5,4\]"),
        (lambda: dot_interaction(tf.zeros([2, 4]), tf.zeros([2, 5, 3])), r"\[2,4\].*\[2,5,3\]"),
        (lambda: dot_interaction(tf.zeros([2, 4]), tf.zeros([2, 5])), r"\[2,4\].*\[2,5\]"),
        (lambda: dot_interaction_stacked(tf.zeros([2, 4])), r"\[2,4\]"),
        (lambda: dot_interaction_stacked(tf.zeros([2, 0, 4])), r"\b0 of 4"),
        (
            lambda: loader.load().dlrm_dot_interaction_grad(
                gradient=tf.zeros([2, 8]), features=tf.zeros([2, 5, 4])
            ),
            r"\[2, 16\].*\[2,8\]",
        ),
    ],
)
def test_mismatched_shapes_are_reported(call, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call()


def test_unsupported_types_are_reported():
    with pytest.raises(TypeError, match="float32 and bfloat16"):
        dot_interaction(tf.zeros([2, 4]), tf.zeros([2, 3, 4], tf.bfloat16))
    with pytest.raises(TypeError, match="float64"):
        dot_interaction_stacked(tf.zeros([2, 3, 4], tf.float64))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("dimension", [128, 24])
def test_gradient_reuses_the_memory_of_unused_features(isa, dtype, dimension, rng):
    """In a graph the gradient overwrites features that it is the last op to read."""
    x = random_tensor(rng, (300, 27, dimension), dtype)
    g = random_tensor(rng, (300, output_width(27, dimension)), dtype)

    @tf.function
    def last_reader(x, g):
        bottom, vectors, stacked = x[:, 0] * 2, x[:, 1:] * 2, x * 2
        ops = loader.load()
        split = ops.dlrm_dot_interaction_split_grad(gradient=g, bottom=bottom, vectors=vectors)
        return (*split, ops.dlrm_dot_interaction_grad(gradient=g, features=stacked))

    bottom, vectors, stacked = last_reader(x, g)
    expected, size = interaction_gradient(2 * float64(x), float64(g))
    assert_rounded(float64(stacked), expected, size, 27, dtype)
    assert tf.reduce_all(tf.concat([bottom[:, tf.newaxis], vectors], 1) == stacked)
