"""The kernels that end a step, compiled for the CPU and run on an emulation of a GPU."""

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


@pytest.mark.parametrize("name", names(dense_checks))
def test_emulated_dense_update(emulated, name, rng):
    run_check(dense_checks, emulated, name, rng)
