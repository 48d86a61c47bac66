"""The CUDA kernels for bags of ids, run on an emulation of a GPU."""

import ctypes

import numpy as np
import pytest

from model.embedding.optimizers import OPTIMIZERS
from ops.bags import Bags
from tests.gpu import bag_checks, launchers
from tests.gpu.bag_cases import BagCase
from tests.gpu.bag_checks import BagProblem
from tests.gpu.embedding_checks import Problem, run_sgd_sorted
from tests.gpu.interaction_checks import MismatchError
from tests.support.ops import emulated_launchers

INVALID_VALUE = 1  # cudaErrorInvalidValue
SIZES = (1000, 3, 1, 40)
LISTS = Bags.of((5, 1, 8, 3), ("mean", "sum", "mean", "sum"), (True, True, False, True))


@pytest.fixture(scope="module")
def emulated():
    """Returns (the emulated launchers, the memory that they work on)."""
    return emulated_launchers.load()


@pytest.fixture(autouse=True)
def schedule(emulated, rng):
    """Runs warps in another random order in every test."""
    emulated[0].seed_schedule(int(rng.integers(2**63)))


@pytest.mark.parametrize("name", [name for name, _ in bag_checks.checks(None, None, large=False)])
def test_emulated_bags(emulated, name, rng):
    cases, worst = dict(bag_checks.checks(*emulated, large=False))[name](rng)
    assert cases > 0 and worst <= 1


def lookup(problem):
    """Returns the looked-up vectors [B T, D], as stored."""
    rows = problem.memory.upload(problem.rows)
    out = problem.memory.empty(problem.gradients.size, problem.gradients.dtype)
    problem.kernels.embedding_lookup(
        ctypes.byref(problem.description), rows.pointer, out.pointer, problem.memory.stream
    )
    return out.download().reshape(-1, problem.dim)


def test_lookup_of_bags_is_one_launch(emulated, rng):
    problem = BagProblem(*emulated, rng, BagCase(9, SIZES, LISTS, 64, np.int32), launchers.FLOAT32)
    before = emulated[0].launches()
    lookup(problem)
    assert emulated[0].launches() - before == 1


@pytest.mark.parametrize("dtype", launchers.DTYPE_NAMES, ids=launchers.DTYPE_NAMES.get)
def test_bags_of_one_id_give_the_bits_of_one_hot_kernels(emulated, dtype, rng):
    one = Problem(*emulated, rng, 45, SIZES, 128, dtype, np.int32, "zipf")
    found = []
    for bags in (None, Bags.one_hot(len(SIZES))):
        if bags is not None:
            one.description.set_bags(bags)
        rows = one.memory.upload(one.rows)
        one.update("sgd", rows, 0.3, 0.7)
        found.append((lookup(one), rows.download()))
    for first, second in zip(*found):
        np.testing.assert_array_equal(first, second)


def swap_hotness(batch):
    batch.hotness[0], batch.hotness[2] = batch.hotness[2], batch.hotness[0]


def sum_means(batch):
    batch.mean[0] = False


def count_empty_slots(batch):
    batch.variable[0] = False


def skip_first_bag(problem):
    problem.description.offsets += ctypes.sizeof(ctypes.c_int32)


def lose_last_id(problem):
    problem.description.ids_count = len(problem.ids) - 1


@pytest.mark.parametrize("fault", [swap_hotness, sum_means, count_empty_slots])
@pytest.mark.parametrize("run", [bag_checks.run_lookup, run_sgd_sorted, bag_checks.run_sgd])
def test_checks_find_wrong_slots(emulated, fault, run, rng):
    problem = BagProblem(*emulated, rng, BagCase(40, SIZES, LISTS, 16, np.int32), launchers.FLOAT32)
    run(problem, [])
    fault(problem.description)
    with pytest.raises(MismatchError):
        run(problem, [])
    emulated[0].take_id_error()


@pytest.mark.parametrize("fault", [skip_first_bag, lose_last_id])
@pytest.mark.parametrize("run", [bag_checks.run_lookup, run_sgd_sorted, bag_checks.run_sgd])
def test_checks_find_wrong_offsets(emulated, fault, run, rng):
    problem = BagProblem(*emulated, rng, BagCase(40, (50,), None, 16, np.int64), launchers.FLOAT32)
    # Without the last bag, so that a further offset follows.
    problem.batch = problem.description.batch = 39
    problem.gradients, used = problem.gradients[:39], slice(problem.offsets[39])
    problem.ids, problem.bag_of = problem.ids[used], problem.bag_of[used]
    problem.table_of = problem.table_of[used]
    run(problem, [])
    fault(problem)
    with pytest.raises(MismatchError):
        run(problem, [])


def test_launchers_reject_invalid_bags(emulated, rng):
    library, device = emulated

    def description(bags):
        return BagProblem(*emulated, rng, BagCase(4, (9, 7), bags, 8, np.int32),
                          launchers.FLOAT32)  # fmt: skip

    def rejected(problem, deterministic=True):
        rule = library.rule("sgd", device.upload(np.ones(2, np.float32)).pointer,
                            deterministic=deterministic)  # fmt: skip
        with pytest.raises(launchers.CudaError) as lookup_error:
            lookup(problem)
        with pytest.raises(launchers.CudaError) as update_error:
            library.workspace_bytes(problem.description, rule)
        assert lookup_error.value.code == update_error.value.code == INVALID_VALUE

    for deterministic in (False, True):
        problem = description(Bags.of((2, 3)))
        problem.description.hotness[1] = 0
        rejected(problem, deterministic)
        problem = description(Bags.of((2, 3)))
        problem.description.offsets = problem.device_ids.pointer  # slots and offsets
        rejected(problem, deterministic)
        problem.description.hotness = None  # offsets of two tables
        rejected(problem, deterministic)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("bags", [LISTS, None], ids=["slots", "offsets"])
def test_update_rejects_a_small_workspace(emulated, bags, deterministic, rng):
    library, device = emulated
    sizes = SIZES if bags else SIZES[:1]
    problem = BagProblem(library, device, rng, BagCase(9, sizes, bags, 8, np.int32),
                         launchers.FLOAT32)  # fmt: skip
    step = device.upload(np.asarray([0.1, 1.0], np.float32))
    rule = library.rule("sgd", step.pointer, deterministic=deterministic)
    size = library.workspace_bytes(problem.description, rule)
    rows, workspace = device.upload(problem.rows), device.empty(size, np.uint8)
    with pytest.raises(launchers.CudaError) as caught:
        library.embedding_update(
            problem.description, rule, problem.device_gradients.pointer, rows.pointer,
            workspace.pointer, size - 1, device.stream,
        )  # fmt: skip
    assert caught.value.code == INVALID_VALUE
    np.testing.assert_array_equal(rows.download(), problem.rows)


@pytest.fixture(scope="module")
def cpu_ops():
    """Returns (TensorFlow, ops.embedding); skips without the op library."""
    tf = pytest.importorskip("tensorflow")
    from ops import embedding, loader

    if not loader.is_built():
        pytest.skip("the op library is not built")
    return tf, embedding


@pytest.mark.parametrize("dtype", launchers.DTYPE_NAMES, ids=launchers.DTYPE_NAMES.get)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bags", [LISTS, None], ids=["slots", "offsets"])
def test_emulated_bags_equal_the_cpu_ops(emulated, cpu_ops, bags, name, dtype, rng):
    """Bit for bit, except for rules with per-row state."""
    (tf, ops), optimizer = cpu_ops, OPTIMIZERS[name]
    sizes = SIZES if bags else SIZES[3:]
    problem = BagProblem(*emulated, rng, BagCase(40, sizes, bags, 128, np.int64, "zipf"), dtype)
    options = [0.01 * (k + 1) for k in range(len(optimizer.rule_values))]
    gradients = tf.constant(problem.gradients)
    if dtype == launchers.BFLOAT16:
        gradients = tf.bitcast(gradients, tf.bfloat16)
    states = [
        rng.uniform(0.1, 1, state.shape(*problem.rows.shape)).astype(np.float32)
        for state in optimizer.states
    ]
    table, variables = tf.Variable(problem.rows), [tf.Variable(state) for state in states]
    offsets = None if bags else problem.offsets
    where = ops.RowIds(problem.ids, problem.base, problem.sizes, bags, offsets)
    vectors = ops.embedding_lookup(table, where, gradients.dtype)
    if dtype == launchers.BFLOAT16:
        vectors = tf.bitcast(vectors, tf.uint16)
    ours = lookup(problem)
    np.testing.assert_array_equal(ours, vectors.numpy().reshape(ours.shape))

    rule = ops.RowRule(name, tuple(options))
    ops.embedding_update(table, variables, where, gradients, 0.7, 0.3, rule)
    device = problem.memory
    rows, buffers = device.upload(problem.rows), [device.upload(state) for state in states]
    problem.update(name, rows, 0.7, 0.3, options, buffers)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if optimizer.per_row_states else {"rtol": 0}
    for buffer, variable in zip([rows, *buffers], [table, *variables]):
        np.testing.assert_allclose(buffer.download(), variable.numpy(), **tolerance)
