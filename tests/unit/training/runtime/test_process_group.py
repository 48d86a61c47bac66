"""The group of a single process, and the connection to Horovod.

`tests/ranks/training/runtime/test_horovod_process_group.py` tests Horovod's collectives.
"""

import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from tests.support.training.launchers import variables
from training.runtime import launcher
from training.runtime.errors import UserError
from training.runtime.process_group import HorovodProcessGroup, SingleProcessGroup, connect

RENDEZVOUS = {"HOROVOD_GLOO_RENDEZVOUS_ADDR": "h", "HOROVOD_GLOO_RENDEZVOUS_PORT": "7"}
HOROVOD_1_OF_4 = launcher.read(variables("gloo", 1, 4, 1, 2))
MPI_1_OF_4 = launcher.read(variables("openmpi", 1, 4, 1, 2))


def test_collectives_of_a_single_process_are_the_identity(rng):
    group = connect(launcher.Place())
    assert isinstance(group, SingleProcessGroup)
    assert (group.rank, group.size, group.local_rank, group.local_size) == (0, 1, 0, 1)
    values = rng.normal(size=(5, 3)).astype(np.float32)
    received, counts = group.alltoall(tf.constant(values), tf.constant([5]), "rows")
    np.testing.assert_array_equal(received, values)
    np.testing.assert_array_equal(counts, [5])
    (mean,) = group.all_reduce_mean([tf.constant(values)], "gradients")
    np.testing.assert_array_equal(mean, values)
    total = group.all_reduce_sum([3, 2**60])
    np.testing.assert_array_equal(total, np.array([3, 2**60]), strict=True)
    assert group.gather(0.25) == [0.25]
    np.testing.assert_array_equal(group.alltoallv([values[0]]), values[0])
    variable = tf.Variable(values)
    group.broadcast([variable])
    np.testing.assert_array_equal(variable, values)
    group.shutdown()


@pytest.fixture
def horovod(monkeypatch):
    """A function (mpi, rank, size) that replaces Horovod, built with MPI or without, on a rank."""
    for name in RENDEZVOUS:
        monkeypatch.delenv(name, raising=False)

    def replace(mpi, rank, size):
        fake, package = types.ModuleType("horovod.tensorflow"), types.ModuleType("horovod")
        facts = {"mpi_built": mpi, "rank": rank, "size": size, "local_rank": 1, "local_size": 2}
        for name, value in facts.items():
            setattr(fake, name, lambda value=value: value)
        fake.started, package.tensorflow = False, fake
        fake.init = lambda: setattr(fake, "started", True)
        monkeypatch.setitem(sys.modules, "horovod", package)
        monkeypatch.setitem(sys.modules, "horovod.tensorflow", fake)
        return fake

    return replace


def test_connect_requires_mpi_for_an_mpi_launcher(horovod):
    horovod(True, 1, 4)
    group = connect(MPI_1_OF_4)
    assert isinstance(group, HorovodProcessGroup)
    assert (group.rank, group.size, group.local_rank, group.local_size) == (1, 4, 1, 2)
    fake = horovod(False, 0, 1)
    with pytest.raises(UserError, match=r"Open MPI .*horovodrun -np 4 "):
        connect(MPI_1_OF_4)
    assert not fake.started


def test_connect_without_mpi_needs_the_variables_of_horovodrun(horovod, monkeypatch):
    fake = horovod(False, 1, 4)
    for name, value in RENDEZVOUS.items():
        with pytest.raises(UserError) as caught:
            connect(HOROVOD_1_OF_4)
        assert caught.value.field == name
        monkeypatch.setenv(name, value)
    assert not fake.started
    assert connect(HOROVOD_1_OF_4).size == 4


@pytest.mark.parametrize(("rank", "size"), [(0, 1), (2, 4)])
def test_connect_refuses_ranks_that_horovod_numbers_differently(horovod, rank, size):
    horovod(True, rank, size)
    with pytest.raises(UserError, match=f"RANK=1 .*SIZE=4 .* rank {rank} of {size}: "):
        connect(MPI_1_OF_4)


def test_connect_without_horovod_is_a_user_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "horovod", None)
    with pytest.raises(UserError, match="4 ranks "):
        connect(MPI_1_OF_4)
