"""The kernels that end a step, compiled for the CPU and run on an emulation of a GPU."""

import ctypes

import numpy as np
import pytest

from tests.gpu import build, dense_checks, launchers, loss_checks, memory

INVALID_VALUE = 1  # cudaErrorInvalidValue


@pytest.fixture(scope="module")
def emulated():
    """Returns (the emulated launchers, the memory that they work on)."""
    if build.cuda_include() is None:
        pytest.skip("CUDA's headers were not found: the CUDA kernels are not run, even emulated")
    return launchers.Library(build.build_emulation()), memory.HostMemory()


@pytest.fixture(autouse=True)
def schedule(emulated, rng):
    """Runs warps in another random order in every test."""
    emulated[0].seed_schedule(int(rng.integers(2**63)))


def names(module):
    return [name for name, _ in module.checks(None, None, large=False)]


def run_check(module, emulated, name, rng):
    cases, worst = dict(module.checks(*emulated, large=False))[name](rng)
    assert cases > 0 and worst <= 1


@pytest.mark.parametrize("name", names(loss_checks))
def test_emulated_loss(emulated, name, rng):
    run_check(loss_checks, emulated, name, rng)


def test_slices_of_large_batches_are_longer(emulated, rng):
    """More than 1024 times 32 rows."""
    loss_checks.run_loss(*emulated, rng, launchers.FLOAT16, 33_000, 8, True, 2.0, 0)


@pytest.mark.parametrize("name", names(dense_checks))
def test_emulated_dense_update(emulated, name, rng):
    run_check(dense_checks, emulated, name, rng)


@pytest.mark.parametrize("options", [False, True], ids=["defaults", "options"])
@pytest.mark.parametrize("name", launchers.DENSE_OPTIMIZERS)
def test_updates_equal_the_optimizer(emulated, name, options, rng):
    """Several steps, one of which is skipped; SGD and Adagrad bit for bit.

    The optimizer runs eagerly: in a graph TensorFlow may replace a division by a root by a product.
    """
    tf = pytest.importorskip("tensorflow")
    from training.optimizers import OPTIMIZERS

    kind, initial = OPTIMIZERS[name], 0.0
    chosen = dense_checks.random_hyperparameters(rng, name) if options else None
    given = dict(zip(kind.hyperparameters, chosen or ()))
    if options and name == "adagrad":
        given["initial_accumulator"] = initial = float(rng.uniform(0.01, 0.5))
    problem = dense_checks.UpdateProblem(
        *emulated, rng, name, (13, 1024, 3000, 1), 0, chosen, initial
    )
    weights = [tf.Variable(buffer.download()) for buffer in problem.variables]
    optimizer = kind(weights, given)
    # TensorFlow's float32 pow may be off by one in the last place.
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if name == "adam" else {"rtol": 0}
    for finite in (True, True, False, True, True):
        rate, scale = np.float32(rng.uniform(0.01, 1)), np.float32(rng.uniform(1, 5000))
        gradients = dense_checks.random_pieces(rng, problem.sizes, "each")
        if not finite:
            gradients[0][5] = rng.choice([np.nan, np.inf])
        unscaled = [tf.constant(gradient) / scale for gradient in gradients]
        optimizer.apply(unscaled, tf.constant(rate), tf.constant(finite))
        problem.update([np.concatenate(gradients)], rate, scale, finite)
        for found, expected in zip(
            (*problem.variables, *problem.states), (*weights, *optimizer.variables[1:])
        ):
            np.testing.assert_allclose(found.download(), expected.numpy(), **tolerance)
        assert problem.values()[2] == int(optimizer.variables[0].numpy())


@pytest.mark.parametrize("skips", [False, True])
def test_records_equal_the_record_of_the_dense_phases(emulated, skips, rng):
    tf = pytest.importorskip("tensorflow")
    from training.dense_phases import LossRecord

    library, device = emulated
    expected = LossRecord()
    # total, last, steps
    kinds = (np.float64, np.float32, np.int64)
    buffers = [device.upload(np.zeros(1, kind)) for kind in kinds]
    sound = device.upload(np.ones(1, np.uint8))
    for loss in [*rng.uniform(0.1, 1, 8), np.inf, 0.5, np.nan, 0.25]:
        finite = bool(np.isfinite(loss) and rng.random() < 0.7) if skips else None
        expected.add(tf.constant(loss, tf.float32), None if finite is None else tf.constant(finite))
        given = device.upload(np.asarray([loss], np.float32))
        flag = device.upload(np.asarray([finite is not False], np.uint8))
        record = launchers.LossRecord(
            given.pointer, flag.pointer, sound.pointer, skips,
            *(buffer.pointer for buffer in buffers),
        )  # fmt: skip
        library.record_loss(ctypes.byref(record), device.stream)
        total, last, steps = (buffer.download()[0] for buffer in buffers)
        np.testing.assert_equal(last, np.float32(expected.last()))
    np.testing.assert_equal(total / steps, expected.mean())


def rejected(function, *arguments):
    with pytest.raises(launchers.CudaError) as caught:
        function(*arguments)
    return caught.value.code == INVALID_VALUE


def test_invalid_arguments_are_rejected(emulated, rng):
    library, device = emulated
    problem = dense_checks.UpdateProblem(library, device, rng, "adam", (6, 7))
    before = problem.values()
    assert rejected(problem.update, [np.ones(12, np.float32)], 1.0, 1.0)  # of 13 elements
    assert rejected(problem.update, [np.ones(1, np.float32)] * 65, 1.0, 1.0)
    np.testing.assert_array_equal(problem.values()[0], before[0])
    many = dense_checks.UpdateProblem(library, device, rng, "sgd", (1,) * 65)
    assert rejected(many.update, [np.ones(65, np.float32)], 1.0, 1.0)
    for batch, width in ((0, 8), (4, 0), (4, 1025)):
        loss = launchers.LogLoss(batch, width, launchers.FLOAT16, 1)
        assert rejected(library.bytes_of, "log_loss", loss)
    loss = launchers.LogLoss(4, 8, launchers.FLOAT16, 1)
    size = library.bytes_of("log_loss", loss)
    assert rejected(library.log_loss, ctypes.byref(loss), None, size - 1, device.stream)
    flag = device.upload(np.ones(1, np.uint8))
    for count in (-1, 65):
        assert rejected(
            library.all_finite, launchers.pointer_array([None] * 65),
            launchers.int64_array([0] * 65), count, launchers.FLOAT16, flag.pointer, device.stream,
        )  # fmt: skip
