"""The dot interaction against float64 scalar products, for every type, shape and CPU path."""

import numpy as np
import pytest
import tensorflow as tf

from ops import loader
from ops.cpu import instruction_set
from ops.dot_interaction import (
    dot_interaction,
    dot_interaction_stacked,
    dot_interaction_tensorflow,
    output_width,
)

FEATURES = (1, 2, 27, 31, 33, 64)
DIMENSIONS = (1, 4, 16, 127, 128, 256)
DTYPES = (tf.float32, tf.bfloat16, tf.float16)
# Half a unit in the last place, relative; and the smallest number before that stops holding.
EPSILON = {tf.float32: 2.0**-24, tf.bfloat16: 2.0**-8, tf.float16: 2.0**-11}
TINY = {tf.float32: 1e-37, tf.bfloat16: 1e-37, tf.float16: 2.0**-24}


def random_tensor(rng, shape, dtype):
    return tf.cast(rng.standard_normal(shape, dtype=np.float32), dtype)


def float64(tensor):
    return tf.cast(tensor, tf.float64).numpy()


def reference(x):
    """Output [B, W] of x [B, F, D], and for each element the sum of its terms' magnitudes."""
    batch, features, dimension = x.shape
    width = output_width(features, dimension)
    y = np.zeros((batch, width))
    size = np.zeros((batch, width))
    y[:, :dimension] = size[:, :dimension] = x[:, 0]
    place = dimension
    for i in range(1, features):
        for out, values in ((y, x), (size, np.abs(x))):
            out[:, place : place + i] = np.einsum("bd,bjd->bj", values[:, i], values[:, :i])
        place += i
    return y, np.abs(size)


def reference_gradient(x, g):
    """Gradient [B, F, D] of sum(output * g), and the sums of its terms' magnitudes."""
    _, features, dimension = x.shape
    results = []
    for values, weights in ((x, g), (np.abs(x), np.abs(g))):
        gradient = np.zeros_like(x)
        gradient[:, 0] = weights[:, :dimension]
        place = dimension
        for i in range(1, features):
            pair = weights[:, place : place + i]
            gradient[:, i] += np.einsum("bj,bjd->bd", pair, values[:, :i])
            gradient[:, :i] += pair[:, :, np.newaxis] * values[:, i : i + 1]
            place += i
        results.append(gradient)
    return results


def assert_rounded(found, expected, size, terms, dtype):
    """Checks float32 accumulation of `terms` products, then one rounding to dtype."""
    accumulated = (terms + 2) * 2.0**-23 * size
    bound = accumulated + EPSILON[dtype] * (np.abs(expected) + accumulated) + TINY[dtype]
    error = np.abs(float64(found) - expected)
    worst = np.unravel_index(np.argmax(error - bound), error.shape) if error.size else None
    assert error.size == 0 or (error <= bound).all(), (
        f"element {worst}: found {float64(found)[worst]}, expected {expected[worst]}, "
        f"allowed {bound[worst]}"
    )


def check(x, g, dtype, samples=None):
    """Checks output and gradients of both native forms on x [B, F, D], given g [B, W]."""
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
    # The same code reads the rows from elsewhere: the same bits.
    assert tf.reduce_all(stacked == y) and tf.reduce_all(stacked_gradient == gradient)
    if samples is not None:
        x, g, y, gradient = (tf.gather(a, samples) for a in (x, g, y, gradient))
    x, g, y, gradient = (float64(a) for a in (x, g, y, gradient))
    assert_rounded(y, *reference(x), dimension, dtype)
    assert_rounded(gradient, *reference_gradient(x, g), features, dtype)
    used = dimension + features * (features - 1) // 2
    np.testing.assert_array_equal(y[:, :dimension], x[:, 0])
    np.testing.assert_array_equal(y[:, used:], 0.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_every_small_shape(isa, dtype, dimension):
    rng = np.random.default_rng([dimension, instruction_set.INSTRUCTION_SETS.index(isa)])
    for features in FEATURES:
        for batch in (0, 1, 3):
            x = random_tensor(rng, (batch, features, dimension), dtype)
            g = random_tensor(rng, (batch, output_width(features, dimension)), dtype)
            check(x, g, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("features", FEATURES)
def test_a_batch_that_is_split_among_threads(isa, dtype, features):
    rng = np.random.default_rng(features)
    dimension = {1: 256, 2: 127, 27: 128, 31: 16, 33: 4, 64: 1}[features]
    x = random_tensor(rng, (255, features, dimension), dtype)
    g = random_tensor(rng, (255, output_width(features, dimension)), dtype)
    check(x, g, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_a_training_batch(isa, dtype):
    rng = np.random.default_rng(1)
    random = tf.random.Generator.from_seed(1)
    x = random.normal((8192, 27, 128), dtype=dtype)
    g = random.normal((8192, 480), dtype=dtype)
    samples = np.sort(rng.choice(8192, 200, replace=False))
    samples[[0, -1]] = 0, 8191
    check(x, g, dtype, samples)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_reaches_every_pair_of_its_vector_alone(isa, dtype, value):
    """A kernel that lost it would make finite logits of a damaged row."""
    del isa
    rng = np.random.default_rng()
    for features, dimension in ((2, 1), (27, 128), (5, 21)):
        x = rng.standard_normal((features, features, dimension), dtype=np.float32)
        rows = np.arange(features)
        x[rows, rows, rng.integers(dimension, size=features)] = value  # sample b: vector b
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


def test_gradients_by_finite_differences(isa):
    rng = np.random.default_rng(2)
    bottom, vectors = (
        random_tensor(rng, (4, 19), tf.float32),
        random_tensor(rng, (4, 6, 19), tf.float32),
    )
    weights = random_tensor(rng, (4, output_width(7, 19)), tf.float32)

    def loss(bottom, vectors):
        return tf.reduce_sum(weights * dot_interaction(bottom, vectors))

    with tf.GradientTape() as tape:
        tape.watch([bottom, vectors])
        value = loss(bottom, vectors)
    gradients = tape.gradient(value, [bottom, vectors])
    for _ in range(5):
        steps = random_tensor(rng, (4, 19), tf.float32), random_tensor(rng, (4, 6, 19), tf.float32)
        # The loss has no terms above the second order, so a central difference has no error but
        # rounding, however long its step.
        up = loss(bottom + steps[0], vectors + steps[1])
        down = loss(bottom - steps[0], vectors - steps[1])
        expected = sum(np.sum(float64(g) * float64(s)) for g, s in zip(gradients, steps))
        np.testing.assert_allclose(float(up - down) / 2, expected, rtol=1e-4, atol=1e-3)


def test_special_values_stay_where_they_are(isa):
    x = np.ones((2, 5, 33), np.float32)
    x[0, 2, 7] = np.nan
    x[1, 4, 32] = np.inf
    for dtype in DTYPES:
        y = float64(dot_interaction_stacked(tf.cast(x, dtype)))
        pairs = np.array([(i, j) for i in range(5) for j in range(i)])
        np.testing.assert_array_equal(np.isnan(y[0, 33:43]), (pairs == 2).any(axis=1))
        np.testing.assert_array_equal(np.isinf(y[1, 33:43]), (pairs == 4).any(axis=1))
        np.testing.assert_array_equal(y[:, 43:], 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_gradient_keeps_special_values_in_their_columns(isa, dtype):
    x = np.ones((1, 5, 40), np.float32)
    x[0, 2, 6], x[0, 3, 7], x[0, 1, 39] = np.nan, -np.inf, np.inf
    features = tf.cast(x, dtype)
    with tf.GradientTape() as tape:
        tape.watch(features)
        output = dot_interaction_stacked(features)
    found = float64(tape.gradient(output, features, tf.ones_like(output)))[0]
    # A row's gradient is the sum of the other rows, and one for the copy of row 0.
    expected = x[0].sum(axis=0) - x[0]
    expected[0] += 1
    # A special value's own row may have it times the zero of the matrix's diagonal.
    for row, column in ((2, 6), (3, 7), (1, 39)):
        expected[row, column] = found[row, column]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "xla"])
@pytest.mark.parametrize(("features", "dimension"), [(27, 128), (5, 7), (1, 3)])
def test_tensorflow_formulation_is_the_same_function(dtype, compiled, features, dimension):
    rng = np.random.default_rng(3)
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
    assert_rounded(float64(y), *reference(float64(x)), dimension, dtype)
    gradient = np.concatenate(
        [float64(bottom_gradient)[:, np.newaxis], float64(vectors_gradient)], axis=1
    )
    expected, size = reference_gradient(float64(x), float64(g))
    # The gradient of a low-precision input is a sum of two rounded ones.
    np.testing.assert_allclose(gradient, expected, atol=3 * EPSILON[dtype] * size.max())


def test_inside_a_function_between_compiled_neighbours():
    rng = np.random.default_rng(4)
    x = random_tensor(rng, (16, 27, 128), tf.float32)
    weights = random_tensor(rng, (480, 4), tf.float32)

    @tf.function(jit_compile=True)
    def bottom_layer(b):
        return tf.nn.relu(b) * 0.5

    @tf.function(jit_compile=True)
    def top_layer(y):
        return tf.reduce_sum(tf.tanh(tf.matmul(y, weights) * 0.01))

    def run(interaction):
        @tf.function
        def step(bottom, vectors):
            with tf.GradientTape() as tape:
                tape.watch([bottom, vectors])
                loss = top_layer(interaction(bottom_layer(bottom), vectors))
            return loss, *tape.gradient(loss, [bottom, vectors])

        return [float64(t) for t in step(x[:, 0], x[:, 1:])]

    for native, plain in zip(run(dot_interaction), run(dot_interaction_tensorflow)):
        np.testing.assert_allclose(native, plain, rtol=1e-4, atol=1e-6)


def test_unknown_batch_size_keeps_the_static_width():
    @tf.function(input_signature=[tf.TensorSpec([None, 27, 128]), tf.TensorSpec([None, 128])])
    def run(features, bottom):
        stacked = dot_interaction_stacked(features)
        assert stacked.shape.as_list() == [None, 480]
        split = dot_interaction(bottom, features[:, 1:])
        assert split.shape.as_list() == [None, 480]
        return split

    assert run(tf.zeros([0, 27, 128]), tf.zeros([0, 128])).shape == (0, 480)


def test_saved_model_round_trip(tmp_path):
    module = tf.Module()
    module.run = tf.function(
        dot_interaction,
        input_signature=[tf.TensorSpec([None, 16]), tf.TensorSpec([None, 4, 16])],
    )
    rng = np.random.default_rng(5)
    x = random_tensor(rng, (3, 5, 16), tf.float32)
    tf.saved_model.save(module, str(tmp_path / "model"))
    restored = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_array_equal(
        restored.run(x[:, 0], x[:, 1:]).numpy(), dot_interaction(x[:, 0], x[:, 1:]).numpy()
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dot_interaction(tf.zeros([2, 4]), tf.zeros([3, 5, 4])), r"\[2,4\].*\[3,5,4\]"),
        (lambda: dot_interaction(tf.zeros([2, 4]), tf.zeros([2, 5, 3])), r"\[2,4\].*\[2,5,3\]"),
        (lambda: dot_interaction(tf.zeros([2, 4]), tf.zeros([2, 5])), r"\[2,4\].*\[2,5\]"),
        (lambda: dot_interaction_stacked(tf.zeros([2, 4])), r"\[2,4\]"),
        (lambda: dot_interaction_stacked(tf.zeros([2, 0, 4])), "at least 1 feature.* 0 of"),
        (
            lambda: loader.load().dlrm_dot_interaction_grad(
                gradient=tf.zeros([2, 8]), features=tf.zeros([2, 5, 4])
            ),
            r"\[2, 16\].*\[2,8\]",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call()


def test_types_that_do_not_fit_are_named():
    with pytest.raises(TypeError, match="float32 and bfloat16"):
        dot_interaction(tf.zeros([2, 4]), tf.zeros([2, 3, 4], tf.bfloat16))
    with pytest.raises(TypeError, match="float64"):
        dot_interaction_stacked(tf.zeros([2, 3, 4], tf.float64))


def test_without_the_library_the_error_says_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setattr(loader, "path", lambda _="ops": tmp_path / "libdlrm_ops-tf0.0.so")
    loader.load.cache_clear()
    try:
        with pytest.raises(loader.LibraryNotBuiltError, match="make ops"):
            dot_interaction(tf.zeros([2, 4]), tf.zeros([2, 3, 4]))
    finally:
        loader.load.cache_clear()


def test_unknown_instruction_set_is_named():
    with pytest.raises(instruction_set.InstructionSetError, match=r"'sse9'.*portable"):
        instruction_set.select("sse9")


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("dimension", [128, 24])
def test_gradients_written_over_features_that_nobody_needs(isa, dtype, dimension):
    """In a graph the gradient takes the memory of features that it is the last to read."""
    rng = np.random.default_rng(6)
    x = random_tensor(rng, (300, 27, dimension), dtype)
    g = random_tensor(rng, (300, output_width(27, dimension)), dtype)

    @tf.function
    def last_reader(x, g):
        bottom, vectors, stacked = x[:, 0] * 2, x[:, 1:] * 2, x * 2
        ops = loader.load()
        split = ops.dlrm_dot_interaction_split_grad(gradient=g, bottom=bottom, vectors=vectors)
        return (*split, ops.dlrm_dot_interaction_grad(gradient=g, features=stacked))

    bottom, vectors, stacked = last_reader(x, g)
    expected, size = reference_gradient(2 * float64(x), float64(g))
    assert_rounded(float64(stacked), expected, size, 27, dtype)
    assert tf.reduce_all(tf.concat([bottom[:, tf.newaxis], vectors], 1) == stacked)
