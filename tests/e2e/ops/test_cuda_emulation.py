"""The CUDA kernels, compiled for the CPU and run on an emulation of a GPU."""

import ctypes

import numpy as np
import pytest

from model.embedding.optimizers import OPTIMIZERS
from tests.gpu import embedding_checks, interaction_checks, launchers, reference
from tests.support.ops import emulated_launchers

INVALID_VALUE = 1  # cudaErrorInvalidValue


@pytest.fixture(scope="module")
def emulated():
    """Returns (the emulated launchers, the memory that they work on)."""
    return emulated_launchers.load()


def names(module):
    return [name for name, _ in module.checks(None, None, large=False)]


@pytest.fixture(autouse=True)
def schedule(emulated, rng):
    """Runs warps in another random order in every test."""
    emulated[0].seed_schedule(int(rng.integers(2**63)))


def run_check(module, emulated, name, rng):
    cases, worst = dict(module.checks(*emulated, large=False))[name](rng)
    assert cases > 0 and worst <= 1


@pytest.mark.parametrize("name", names(interaction_checks))
def test_emulated_interaction(emulated, name, rng):
    run_check(interaction_checks, emulated, name, rng)


@pytest.mark.parametrize("name", names(embedding_checks))
def test_emulated_embedding(emulated, name, rng):
    run_check(embedding_checks, emulated, name, rng)


def forward(emulated, stored, dtype, offset=0):
    """Runs the forward interaction on stored features [B, F, D]; returns float64 [B, W]."""
    library, device = emulated
    batch, features, dim = stored.shape
    width = library.width(features, dim)
    inputs = device.upload(stored, offset)
    output = device.empty(batch * width, stored.dtype)
    library.dot_interaction_forward(
        launchers.InteractionShape(batch, features, dim, dtype),
        launchers.FeatureRows.of_one_tensor(
            inputs.pointer, features, dim, launchers.ELEMENT_BYTES[dtype]
        ),
        output.pointer,
        device.stream,
    )
    return reference.from_storage(output.download().reshape(batch, width), dtype)


@pytest.mark.parametrize(
    ("features", "dim", "dtype", "tensor_cores"),
    [
        (27, 128, launchers.FLOAT16, True),
        (32, 256, launchers.FLOAT32, True),
        (33, 128, launchers.FLOAT16, False),
        (27, 4, launchers.FLOAT32, True),
        (27, 4, launchers.BFLOAT16, False),
        (27, 264, launchers.FLOAT16, False),
    ],
)
def test_interaction_selects_the_kernel_by_shape(emulated, features, dim, dtype, tensor_cores):
    forward(emulated, reference.to_storage(np.zeros((1, features, dim)), dtype), dtype)
    # The tensor-core kernel has at most two warps per block, the kernel for any shape has eight.
    threads = emulated[0].newest_launch()["threads"]
    assert threads <= 64 if tensor_cores else threads == 256


def test_float32_interaction_keeps_float32_accuracy(emulated, rng):
    """Checks the root mean square, which depends on the order of sums more than single elements."""
    features, dim = 27, 256
    x = rng.standard_normal((16, features, dim)).astype(np.float32)
    expected, magnitude = reference.interaction(x.astype(np.float64))
    pairs = slice(dim, dim + features * (features - 1) // 2)
    error = (forward(emulated, x, launchers.FLOAT32) - expected)[:, pairs]
    # One common sum of large and small products gives 4, scalar arithmetic 0.5.
    assert np.sqrt((error**2).mean()) <= 2.0 * 2.0**-24 * magnitude[:, pairs].mean()


@pytest.mark.parametrize("dtype", launchers.DTYPE_NAMES, ids=launchers.DTYPE_NAMES.get)
@pytest.mark.parametrize("aligned", [True, False], ids=["tensor cores", "any shape"])
def test_interaction_propagates_non_finite_values(emulated, aligned, dtype, rng):
    """Sample b has the value in feature b: exactly the pairs of feature b are affected."""
    # Unaligned rows take the kernel for any shape.
    offset = 0 if aligned else launchers.ELEMENT_BYTES[dtype]
    for features, dim in ((2, 8), (27, 128), (5, 7)):
        for value in (np.nan, np.inf, -np.inf):
            x = rng.standard_normal((features, features, dim)).astype(np.float32)
            rows = np.arange(features)
            x[rows, rows, rng.integers(dim, size=features)] = value
            stored = reference.to_storage(x, dtype)
            y = forward(emulated, stored, dtype, offset)
            i, j = np.tril_indices(features, -1)
            affected = (i == rows[:, None]) | (j == rows[:, None])
            np.testing.assert_array_equal(y[:, :dim], reference.from_storage(stored[:, 0], dtype))
            np.testing.assert_array_equal(~np.isfinite(y[:, dim : dim + len(i)]), affected)
            np.testing.assert_array_equal(y[:, dim + len(i) :], 0)


def sgd_accesses(emulated, rng, batch, size, ids):
    """Returns (atomic, plain) accesses of SGD on one table, in rows."""
    library, device = emulated
    problem = embedding_checks.Problem(
        library, device, rng, batch, [size], 16, launchers.FLOAT32, np.int32, ids
    )
    problem.update("sgd", device.upload(problem.rows), 0.1, deterministic=False)
    return tuple(elements // 16 for elements in library.newest_accesses())


def test_only_rows_of_several_groups_take_atomics(emulated, rng):
    atomic, plain = sgd_accesses(emulated, rng, 640, 5000, "distinct")
    # Of 640 hashes of 2^14 about 25 collide.
    assert atomic + plain == 640 and atomic < 100
    # One group of 32 samples adds equal rows itself.
    atomic, plain = sgd_accesses(emulated, rng, 32, 5000, "equal")
    assert (atomic, plain) == (0, 1)
    atomic, plain = sgd_accesses(emulated, rng, 33, 5000, "equal")
    assert (atomic, plain) == (1, 0)


def test_small_tables_are_summed_in_shared_memory(emulated, rng):
    for size, small in ((200, True), (2000, False)):
        sgd_accesses(emulated, rng, 256, size, "uniform")
        assert (emulated[0].newest_launch()["shared_bytes"] > 0) == small


def test_launchers_reject_invalid_arguments(emulated, rng):
    library, device = emulated

    def rejected(function, *arguments):
        with pytest.raises(launchers.CudaError) as caught:
            getattr(library, function)(*arguments)
        assert caught.value.function == f"dlrm_{function}"
        assert caught.value.code == INVALID_VALUE

    shape = launchers.InteractionShape(1, 0, 128, launchers.FLOAT32)
    rejected("dot_interaction_forward", shape, launchers.FeatureRows(), None, device.stream)
    problem = embedding_checks.Problem(library, device, rng, 4, [7], 8, launchers.FLOAT32, np.int64)
    step = device.upload(np.asarray([0.1, 1.0], np.float32))
    rule = library.rule("sgd", step.pointer)
    rule.optimizer = len(OPTIMIZERS)
    size = library.workspace_bytes(problem.description, rule)
    rows, workspace = device.upload(problem.rows), device.empty(size, np.uint8)
    update = (problem.description, rule, problem.device_gradients.pointer, rows.pointer,
              workspace.pointer)  # fmt: skip
    rejected("embedding_update", *update, size, device.stream)
    rule.optimizer = 0
    rejected("embedding_update", *update, size - 1, device.stream)
    with_atomics = library.rule("sgd", step.pointer, deterministic=False)
    needed = library.workspace_bytes(problem.description, with_atomics)
    update = (problem.description, with_atomics, *update[2:])
    rejected("embedding_update", *update, needed - 1, device.stream)
    with_atomics.scale = None
    rejected("embedding_update", *update, needed, device.stream)
    problem.description.row_type = launchers.FLOAT16
    rejected("embedding_update", *update, size, device.stream)
    rejected("embedding_initialize", None, 0, 1, 0, 1, 0, 0, 1.0, device.stream)


@pytest.mark.parametrize("dtype", launchers.DTYPE_NAMES, ids=launchers.DTYPE_NAMES.get)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_emulated_updates_equal_the_cpu_op(emulated, name, dtype, rng):
    """Bit for bit, except for rules with per-row state."""
    tf = pytest.importorskip("tensorflow")
    from ops import loader
    from ops.embedding import RowIds, RowRule, embedding_update

    if not loader.is_built():
        pytest.skip("the op library is not built")
    optimizer, (library, device) = OPTIMIZERS[name], emulated
    options = [0.01 * (k + 1) for k in range(len(optimizer.rule_values))]
    problem = embedding_checks.Problem(
        library, device, rng, 40, [1000, 3, 1, 40], 128, dtype, np.int64, "zipf"
    )
    gradients = tf.constant(problem.gradients)
    if dtype == launchers.BFLOAT16:
        gradients = tf.bitcast(gradients, tf.bfloat16)
    states = [
        rng.uniform(0.1, 1, state.shape(*problem.rows.shape)).astype(np.float32)
        for state in optimizer.states
    ]
    table, variables = tf.Variable(problem.rows), [tf.Variable(state) for state in states]
    where = RowIds(problem.ids, problem.base, problem.sizes)
    embedding_update(table, variables, where, gradients, 0.7, 0.3, RowRule(name, tuple(options)))
    rows, buffers = device.upload(problem.rows), [device.upload(state) for state in states]
    problem.update(name, rows, 0.7, 0.3, options, buffers)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if optimizer.per_row_states else {"rtol": 0}
    for buffer, variable in zip([rows, *buffers], [table, *variables]):
        np.testing.assert_allclose(buffer.download(), variable.numpy(), **tolerance)


def test_scalars_reach_the_device(emulated, rng):
    library, device = emulated
    for count in (0, 1, 5, 32):
        values = rng.standard_normal(count).astype(np.float32)
        target = device.empty(40, np.float32)
        library.scalars_on_device(as_floats(values), count, target.pointer, device.stream)
        np.testing.assert_array_equal(target.download()[:count], values)
        assert np.isnan(target.download()[count:]).all()


@pytest.mark.parametrize("count", [-1, 33])
def test_too_many_scalars_are_refused(emulated, count):
    library, device = emulated
    target = device.empty(40, np.float32)
    with pytest.raises(launchers.CudaError) as caught:
        library.scalars_on_device(as_floats(np.ones(40)), count, target.pointer, device.stream)
    assert caught.value.code == INVALID_VALUE


def as_floats(values):
    return (ctypes.c_float * max(1, len(values)))(*values)
