"""The MLP op against float64 NumPy: types, odd shapes, gradients, determinism, errors."""

import numpy as np
import pytest
import tensorflow as tf

from ops import loader
from ops.mlp import MlpActivations, load_kernels, mlp, native
from tests.support.reference import mlp_backward, mlp_forward

pytestmark = pytest.mark.skipif(
    not loader.is_built("mlp"), reason="the MLP library is not built: it needs oneDNN"
)

DTYPES = (tf.float32, tf.bfloat16)
# Relative to the norm of the sums of the terms' magnitudes. In bfloat16 each layer's output is
# rounded by up to 2^-9.
TOLERANCE = {tf.float32: 2e-6, tf.bfloat16: 0.02}
# (B, widths): the published MLPs, one row, one layer, single columns, sizes that are no multiple of
# a register or a chunk, more layers than buffers.
SHAPES = (
    (1100, (13, 512, 256, 128)), (520, (480, 512, 256, 1)), (1, (13, 32, 8)),
    (1, (1, 1)), (3, (5, 1, 7)), (97, (33, 17, 1, 9, 31, 2)), (130, (7, 7)), (1025, (16, 3, 64)),
)  # fmt: skip


class Case:
    """Random inputs of an MLP, as tensors and as float64 arrays of the same values."""

    def __init__(self, rng, batch, widths, dtype, last_relu=False):
        self.last_relu = last_relu
        self.x = tf.cast(rng.standard_normal((batch, widths[0]), np.float32), dtype)
        self.kernels, self.biases = [], []
        for inputs, outputs in zip(widths, widths[1:]):
            kernel = rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
            self.kernels.append(tf.Variable(kernel, dtype=tf.float32))
            self.biases.append(tf.Variable(0.3 * rng.standard_normal(outputs), dtype=tf.float32))
        self.upstream = tf.cast(rng.standard_normal((batch, widths[-1]), np.float32), dtype)

    def run(self, **options):
        """Returns (y, [gradient of x, of the kernels, of the biases])."""
        with tf.GradientTape() as tape:
            tape.watch(self.x)
            y = mlp(self.x, self.kernels, self.biases, self.last_relu, **options)
        return y, tape.gradient(y, [self.x, *self.kernels, *self.biases], self.upstream)

    def layers(self):
        """Returns [(kernel, bias), ...] in float64, kernels rounded to the type of x."""
        return [
            (float64(tf.cast(kernel, self.x.dtype)), float64(bias))
            for kernel, bias in zip(self.kernels, self.biases)
        ]

    def check(self, **options):
        """Checks every layer and every gradient against float64, given the op's activations.

        The op's activations, because rounding may change the sign and so the gradient of a unit.
        """
        y, hidden, _ = loader.load("mlp").dlrm_mlp_forward(
            x=self.x, kernels=self.kernels, biases=self.biases, M=len(self.kernels) - 1,
            last_relu=self.last_relu, **options,
        )  # fmt: skip
        kept = [float64(tensor) for tensor in (self.x, *hidden, y)]
        layers, tolerance = self.layers(), TOLERANCE[self.x.dtype]
        for index, (before, after, (kernel, bias)) in enumerate(zip(kept, kept[1:], layers)):
            linear = index == len(layers) - 1 and not self.last_relu
            (expected,) = mlp_forward(before, [(kernel, bias)], last_linear=linear)[1:]
            close(after, expected, np.abs(before) @ np.abs(kernel) + np.abs(bias), tolerance)
        same, gradients = self.run(**options)
        for one, other in zip([y, *gradients], [same, *self.run(**options)[1]]):
            assert one.numpy().tobytes() == other.numpy().tobytes()
        assert [g.dtype for g in gradients] == [self.x.dtype] + [tf.float32] * 2 * len(layers)
        upstream, linear = float64(self.upstream), not self.last_relu
        expected = flat(mlp_backward(upstream, kept, layers, linear))
        sizes = flat(
            mlp_backward(
                np.abs(upstream), [np.abs(kept[0]), *kept[1:]],
                [(np.abs(kernel), bias) for kernel, bias in layers], linear,
            )
        )  # fmt: skip
        for ours, reference, size in zip(gradients, expected, sizes):
            close(float64(ours), reference, size, tolerance)


def flat(backward):
    """Flattens `mlp_backward`'s result: [gradient of x, of the kernels, of the biases]."""
    x_gradient, gradients = backward
    kernels, biases = zip(*gradients)
    return [x_gradient, *kernels, *biases]


def same_bits(ours, theirs):
    assert ours.numpy().tobytes() == theirs.numpy().tobytes()


def float64(tensor):
    return tf.cast(tensor, tf.float64).numpy()


def close(ours, reference, size, tolerance):
    assert ours.shape == reference.shape
    error, scale = np.linalg.norm(ours - reference), np.linalg.norm(size)
    assert error <= tolerance * scale, (error, scale)


@pytest.mark.parametrize("last_relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize(("batch", "widths"), SHAPES, ids=str)
def test_mlp_matches_float64_layers_and_gradients(batch, widths, dtype, last_relu, rng):
    Case(rng, batch, widths, dtype, last_relu).check()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_relu_keeps_non_finite_values(dtype, isa):
    """A ReLU that turned NaN or infinity into 0 would hide divergence."""
    values = np.array([-3.0, -0.0, 0.0, 2.0, np.nan, np.inf, -np.inf])
    expected = np.array([0, 0, 0, 2, np.nan, np.nan, np.nan])
    # Widths that fill registers and leave a remainder: every lane gets every value.
    for width in (1, 7, 16, 35):
        x = tf.cast(values[:, None], dtype)
        ones, zeros = tf.ones([1, width]), tf.zeros([width])
        y = float64(mlp(x, [ones], [zeros], last_relu=True))
        np.testing.assert_array_equal(y, np.tile(expected[:, None], width))
        y = float64(mlp(x, [ones, -tf.eye(width)], [zeros, zeros], for_inference=True))
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(y[finite], np.tile(-expected[finite, None], width))
        assert np.isnan(y[~finite]).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("batch", [0, 1, 65, 4096])
def test_mlp_for_inference_returns_the_same_bits(batch, dtype, rng):
    case = Case(rng, batch, (13, 64, 32, 1), dtype)
    y, _ = case.run()
    with tf.GradientTape() as tape:
        inferred = mlp(case.x, case.kernels, case.biases, for_inference=True)
    assert inferred.numpy().tobytes() == y.numpy().tobytes()
    with pytest.raises(ValueError, match=r"\b2 hidden.*\b0; .*for_inference"):
        tape.gradient(inferred, case.kernels)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_empty_batch_has_zero_gradients(dtype, rng):
    y, gradients = Case(rng, 0, (13, 64, 2), dtype, True).run()
    assert y.shape == (0, 2)
    assert gradients[0].shape == (0, 13)
    assert all(not g.numpy().any() for g in gradients[1:])


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("chunk_rows", [1, 33, 500])
def test_mlp_matches_float64_for_any_chunk_rows(chunk_rows, dtype, rng):
    Case(rng, 777, (13, 48, 20, 3), dtype, True).check(chunk_rows=chunk_rows)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_mlp_runs_in_a_function_for_any_batch_size(dtype, rng):
    case = Case(rng, 1, (13, 32, 4), dtype)

    @tf.function(input_signature=[tf.TensorSpec([None, 13], dtype)])
    def run(x):
        with tf.GradientTape() as tape:
            y = mlp(x, case.kernels, case.biases)
        return y, tape.gradient(y, case.kernels)

    assert run.get_concrete_function().output_shapes[0].as_list() == [None, 4]
    for batch in (5, 0, 1, 300, 5, *range(20, 38)):  # more sizes than the op caches
        case.x = tf.cast(rng.standard_normal((batch, 13)), dtype)
        case.upstream = tf.ones([batch, 4], dtype)
        y, gradients = run(case.x)
        expected_y, expected = case.run()
        assert y.numpy().tobytes() == expected_y.numpy().tobytes()
        for ours, reference in zip(gradients, expected[1:3]):
            assert ours.numpy().tobytes() == reference.numpy().tobytes()


@pytest.mark.parametrize("last_relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("widths", [(13, 32, 8), (9, 5)], ids=str)
def test_explicit_gradients_equal_the_tapes(widths, dtype, last_relu, rng):
    case = Case(rng, 70, widths, dtype, last_relu)
    y, expected = case.run()
    found = native.mlp_forward(case.x, case.kernels, case.biases, last_relu)
    same_bits(found.y, y)
    gradients = native.mlp_backward(case.upstream, found, case.kernels, last_relu)
    for ours, theirs in zip([gradients.x, *gradients.kernels, *gradients.biases], expected):
        same_bits(ours, theirs)
    without = native.mlp_backward(
        case.upstream, found, case.kernels, last_relu, input_gradient=False
    )
    assert without.x is None
    for ours, theirs in zip([*without.kernels, *without.biases], expected[1:]):
        same_bits(ours, theirs)


def test_gradient_before_the_last_relu_needs_no_mask(rng):
    case = Case(rng, 70, (13, 32, 8), tf.float32, True)
    found = native.mlp_forward(case.x, case.kernels, case.biases, last_relu=True)
    masked = tf.where(found.y > 0, case.upstream, 0.0)
    ours = native.mlp_backward(masked, found, case.kernels, last_relu=False)
    for one, other in zip(tf.nest.flatten(tuple(ours)), case.run()[1]):
        same_bits(one, other)


@pytest.fixture
def devices(monkeypatch):
    """Returns a function that sets what the op has kernels for, and the GPUs of the process.

    It returns the names of libraries as they are loaded.
    """

    def select(registered, gpus):
        loaded, cpu = [], (tf.float32, tf.bfloat16)
        types = {"GPU": (tf.float32, tf.bfloat16, tf.float16)} if "GPU" in registered else {}

        def kernel_types(op):
            assert op == "Dlrm>MlpForward"
            has_cpu = "CPU" in registered or "mlp" in loaded
            return {**types, **({"CPU": cpu} if has_cpu else {})}

        monkeypatch.setattr(loader, "kernel_types", kernel_types)
        monkeypatch.setattr(loader, "load", lambda name="ops": loaded.append(name) or name)
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind] * gpus)
        native._kernels.cache_clear()
        return loaded

    yield select
    native._kernels.cache_clear()


@pytest.mark.parametrize(
    ("registered", "gpus", "libraries", "float16"),
    [
        (["GPU"], 1, {"ops"}, True),
        (["GPU"], 0, {"ops", "mlp"}, False),
        ([], 1, {"ops", "mlp"}, False),
        ([], 0, {"ops", "mlp"}, False),
        (["CPU"], 0, {"ops"}, False),
    ],
)
def test_kernels_are_those_of_the_device(registered, gpus, libraries, float16, devices):
    loaded = devices(registered, gpus)
    for dtype in DTYPES:
        assert load_kernels(dtype) == "ops"
    assert set(loaded) == libraries
    if float16:
        assert load_kernels(tf.float16) == "ops"
    else:
        with pytest.raises(TypeError, match="float32, bfloat16 on a CPU; found float16"):
            load_kernels(tf.float16)
    with pytest.raises(TypeError, match="found float64"):
        load_kernels(tf.float64)


def test_mismatched_arguments_are_reported():
    x = tf.zeros([4, 3])
    kernels, biases = [tf.zeros([3, 5]), tf.zeros([5, 2])], [tf.zeros([5]), tf.zeros([2])]
    invalid = (ValueError, tf.errors.InvalidArgumentError)
    with pytest.raises(TypeError, match="float32, bfloat16 on a CPU; found float16"):
        mlp(tf.cast(x, tf.float16), kernels, biases)
    with pytest.raises(ValueError, match="2 kernels and 1 biases"):
        mlp(x, kernels, biases[:1])
    with pytest.raises(ValueError, match="0 kernels and 0 biases"):
        mlp(x, [], [])
    with pytest.raises(invalid, match=r"kernel 0 \[4, N >= 1\].*\[3,5\]"):
        mlp(tf.zeros([4, 4]), kernels, biases)
    with pytest.raises(invalid, match=r"kernel 1 \[5, N >= 1\].*\[4,2\]"):
        mlp(x, [kernels[0], tf.zeros([4, 2])], biases)
    with pytest.raises(invalid, match=r"bias 1 \[2\].*\[3\]"):
        mlp(x, kernels, [biases[0], tf.zeros([3])])
    with pytest.raises(invalid, match=r"x \[B, K >= 1\].*\[4\]"):
        mlp(tf.zeros([4]), kernels, biases)
    with pytest.raises(ValueError, match=r"must be equal|must be rank"):
        tf.function(lambda: mlp(x, [tf.zeros([4, 2])], [tf.zeros([2])]))()
    activations = native.mlp_forward(x, kernels, biases)
    assert isinstance(activations, MlpActivations)
    with pytest.raises(invalid, match=r"gradient \[4, 2\].*\[4,3\]"):
        native.mlp_backward(tf.zeros([4, 3]), activations, kernels)
    with pytest.raises(invalid, match=r"hidden activations \[4, 5\].*\[4,2\]"):
        native.mlp_backward(tf.zeros([4, 2]), activations._replace(hidden=[activations.y]), kernels)
    with pytest.raises(invalid, match="1 hidden activations for 2 layers, found 0"):
        native.mlp_backward(tf.zeros([4, 2]), activations._replace(hidden=[]), kernels)
