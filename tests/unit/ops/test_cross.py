"""The cross network, native and in TensorFlow's ops, against float64 NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from ops import loader
from ops.cross import cross_network, cross_network_tensorflow
from tests.support.reference import ReferenceCross

needs_library = pytest.mark.skipif(
    not loader.is_built("mlp"), reason="the MLP library is not built: it needs oneDNN"
)
NATIVE_DTYPES = (tf.float32, tf.bfloat16)
# Largest relative error of rounding to a type.
UNIT = {tf.float32: 2.0**-24, tf.bfloat16: 2.0**-9, tf.float16: 2.0**-11}
# (B, n, r, L), r = 0 for full rank: many registers, one row, single columns, sizes that are no
# multiple of a register or a chunk, rank 1, rank above n.
SHAPES = (
    (300, 96, 16, 3), (1, 48, 8, 3), (1, 1, 1, 1), (97, 37, 1, 2), (70, 7, 33, 4), (530, 31, 5, 2),
    (65, 40, 0, 3), (1, 3, 0, 1), (530, 17, 0, 2),
)  # fmt: skip


class Case:
    """Random inputs of a cross network, as tensors and as float64 arrays of the same values."""

    def __init__(self, rng, shape, dtype):
        batch, width, rank, layers = self.shape = shape
        self.dtype = dtype
        shapes = [(width, width)] if rank == 0 else [(width, rank), (rank, width)]
        self.x0 = tf.cast(rng.standard_normal((batch, width), np.float32), dtype)
        self.upstream = tf.cast(rng.standard_normal((batch, width), np.float32), dtype)

        # Values of the type of x0, so that converting weights does not round.
        def draw(shape, size):
            return float64(tf.cast(size * rng.standard_normal(shape), dtype))

        self.weights = [
            [*(draw(s, s[0] ** -0.5) for s in shapes), draw(width, 0.3)] for _ in range(layers)
        ]
        self.kernels = [tf.Variable(k, dtype=tf.float32) for w in self.weights for k in w[:-1]]
        self.biases = [tf.Variable(w[-1], dtype=tf.float32) for w in self.weights]

    def run(self, compute=cross_network, **options):
        """Returns [y, gradient of x0, gradients of the weights, layer by layer]."""
        with tf.GradientTape() as tape:
            tape.watch(self.x0)
            if compute is cross_network:
                y = compute(self.x0, self.kernels, self.biases, **options)
            else:
                weights = [[tf.cast(w, self.dtype) for w in g] for g in (self.kernels, self.biases)]
                y = compute(self.x0, *weights)
        each = len(self.kernels) // len(self.biases)
        layers = [(*self.kernels[each * i : each * (i + 1)], b) for i, b in enumerate(self.biases)]
        sources = [self.x0, *(w for layer in layers for w in layer)]
        return [y, *tape.gradient(y, sources, self.upstream)]

    def expected(self, values=lambda a: a):
        """Returns the results of `run` in float64, for the inputs mapped by `values`."""
        reference = ReferenceCross([[values(w) for w in layer] for layer in self.weights])
        x0, upstream = values(float64(self.x0)), values(float64(self.upstream))
        x_gradient, gradients = reference.backward(x0, upstream)
        return [reference.forward(x0, x0.shape[1]), x_gradient, *gradients]

    def check(self, found):
        """Checks the results of `run`.

        An error is at most the roundings on the way to a result, at most ten in each layer and
        direction, times what the result would be if all its terms were positive; and the float32
        sums' own errors.
        """
        batch, width, rank, layers = self.shape
        terms = batch + 2 * layers * (width + max(rank, 1))
        tolerance = 10 * layers * UNIT[self.dtype] + terms * UNIT[tf.float32]
        types = [self.dtype, self.dtype] + [tf.float32] * (len(found) - 2)
        assert [tensor.dtype for tensor in found] == types
        for ours, reference, size in zip(found, self.expected(), self.expected(np.abs)):
            assert ours.shape == reference.shape
            excess = np.abs(float64(ours) - reference) - tolerance * size
            assert excess.max(initial=0) <= 0, (excess.max(), tolerance)


def float64(tensor):
    return tf.cast(tensor, tf.float64).numpy()


def same_bits(ours, theirs):
    for one, other in zip(ours, theirs):
        assert one.numpy().tobytes() == other.numpy().tobytes()


@needs_library
@pytest.mark.parametrize("dtype", NATIVE_DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_network_matches_float64(shape, dtype, rng):
    case = Case(rng, shape, dtype)
    found = case.run()
    case.check(found)
    same_bits(case.run(), found)


@needs_library
@pytest.mark.parametrize("dtype", NATIVE_DTYPES, ids=lambda d: d.name)
def test_every_instruction_set_matches_float64(dtype, isa, rng):
    for shape in ((90, 37, 6, 3), (20, 19, 0, 2)):
        case = Case(rng, shape, dtype)
        case.check(case.run())


@needs_library
@pytest.mark.parametrize("dtype", NATIVE_DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("chunk_rows", [1, 16, 100])
def test_chunks_change_only_the_order_of_sums(chunk_rows, dtype, rng):
    case = Case(rng, (333, 24, 4, 2), dtype)
    found = case.run(chunk_rows=chunk_rows)
    case.check(found)


@pytest.mark.parametrize("dtype", [*NATIVE_DTYPES, tf.float16], ids=lambda d: d.name)
@pytest.mark.parametrize("shape", [(300, 96, 16, 3), (1, 1, 1, 1), (65, 40, 0, 3)], ids=str)
def test_tensorflow_formulation_matches_float64(shape, dtype, rng):
    case = Case(rng, shape, dtype)
    case.check(case.run(cross_network_tensorflow))


@pytest.mark.parametrize("dtype", [*NATIVE_DTYPES, tf.float16], ids=lambda d: d.name)
def test_bias_gradients_sum_more_samples_than_a_16_bit_sum_can(dtype, rng):
    """A bfloat16 sum of equal terms stops growing at 256 of them, a float16 sum at 2048."""
    batch = 20_000
    x0 = tf.cast(tf.ones([batch, 1]), dtype)
    kernels, bias = [tf.zeros([1, 1], dtype)], tf.zeros([1], dtype)
    upstream = tf.fill([batch, 1], tf.cast(0.5, dtype))
    with tf.GradientTape() as tape:
        tape.watch(bias)
        y = cross_network_tensorflow(x0, kernels, [bias])
    assert float(tape.gradient(y, bias, upstream)[0]) == pytest.approx(batch / 2, rel=0.005)


@pytest.mark.parametrize("rank", [3, 0])
def test_reference_gradients_equal_central_differences(rank, rng):
    case = Case(rng, (4, 6, rank, 3), tf.float32)
    upstream = float64(case.upstream)
    values = [float64(case.x0), *(w for layer in case.weights for w in layer)]
    each = (len(values) - 1) // 3

    def loss(x0, *weights):
        network = ReferenceCross([weights[each * i : each * (i + 1)] for i in range(3)])
        return (network.forward(x0, 6) * upstream).sum()

    for index, gradient in enumerate(case.expected()[1:]):
        step = 1e-5 * rng.standard_normal(gradient.shape)
        above, below = (
            loss(*[v + sign * step if i == index else v for i, v in enumerate(values)])
            for sign in (1, -1)
        )
        expected = 2 * (gradient * step).sum()
        assert above - below == pytest.approx(expected, rel=1e-5, abs=1e-9)


@needs_library
@pytest.mark.parametrize("dtype", NATIVE_DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("batch", [0, 1, 65, 1100])
def test_inference_returns_the_same_bits_and_has_no_gradient(batch, dtype, rng):
    case = Case(rng, (batch, 33, 5, 3), dtype)
    y, *_ = case.run()
    with tf.GradientTape() as tape:
        inferred = cross_network(case.x0, case.kernels, case.biases, for_inference=True)
    same_bits([inferred], [y])
    with pytest.raises(ValueError, match="for_inference"):
        tape.gradient(inferred, case.kernels)


@needs_library
@pytest.mark.parametrize("dtype", NATIVE_DTYPES, ids=lambda d: d.name)
def test_empty_batch_has_zero_gradients(dtype, rng):
    y, x_gradient, *gradients = Case(rng, (0, 9, 4, 2), dtype).run()
    assert y.shape == x_gradient.shape == (0, 9)
    assert [g.shape for g in gradients] == [(9, 4), (4, 9), (9,)] * 2
    assert all(not g.numpy().any() for g in gradients)


@needs_library
def test_graph_has_static_shapes(rng):
    case = Case(rng, (5, 9, 4, 2), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, 9])])
    def run(x0):
        with tf.GradientTape() as tape:
            tape.watch(x0)
            y = cross_network(x0, case.kernels, case.biases)
        return y, *tape.gradient(y, [x0, *case.kernels])

    shapes = [output.shape.as_list() for output in run.get_concrete_function().outputs]
    assert shapes == [[None, 9], [None, 9], *[[9, 4], [4, 9]] * 2]


@needs_library
@pytest.mark.parametrize(
    ("kernels", "biases", "names"),
    [
        ([(9, 4), (4, 9), (9, 4)], [9, 9], "3 kernels and 2 biases"),
        ([], [], "0 kernels and 0 biases"),
        ([(8, 4), (4, 9)], [9], r"8.*9|9.*8"),
        ([(9, 4), (4, 8)], [9], r"9.*8|8.*9"),
        ([(9, 4), (3, 9)], [9], r"4.*3|3.*4"),
        ([(9, 8)], [9], r"9.*8|8.*9"),
        ([(9, 4), (4, 9)], [8], r"9.*8|8.*9"),
    ],
)
def test_wrong_shapes_are_refused(kernels, biases, names):
    arguments = [tf.zeros(s) for s in kernels], [tf.zeros([n]) for n in biases]
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=names):
        cross_network(tf.zeros([2, 9]), *arguments)


@needs_library
def test_wrong_types_and_activations_are_refused():
    weights = [tf.zeros([9, 4]), tf.zeros([4, 9])], [tf.zeros([9])]
    with pytest.raises(TypeError, match="float32, bfloat16; found float16"):
        cross_network(tf.zeros([2, 9], tf.float16), *weights)
    ops = loader.load("mlp")
    good = {"gradient": [2, 9], "x0": [2, 9], "inner": [2, 4], "outer": [2, 9]}
    for name, shape in (("gradient", [3, 9]), ("inner", [2, 5]), ("outer", [2, 8])):
        tensors = {n: tf.zeros(shape if n == name else s) for n, s in good.items()}
        tensors.update({n: [tensors[n]] for n in ("inner", "outer")})
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"expected {name} "):
            ops.dlrm_cross_backward(**tensors, kernels=weights[0])
