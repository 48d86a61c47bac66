"""The place in a job that each launcher's variables say, and what is no place."""

import os
import sys
import types

import pytest

from tests.support.training.launchers import LAUNCHERS
from training.runtime import launcher
from training.runtime.errors import UserError
from training.runtime.process_group import _check_gloo, connect


def variables(name, *numbers):
    return {variable: str(number) for variable, number in zip(LAUNCHERS[name], numbers)}


HOROVOD_1_OF_4 = variables("gloo", 1, 4, 1, 2)
MPI_1_OF_4 = variables("openmpi", 1, 4, 1, 2)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_launchers_variables_are_read(name):
    place = launcher.read(variables(name, 5, 12, 1, 4))
    assert place[1:5] == (5, 12, 1, 4)
    assert place.launcher
    assert place.shown == f"{LAUNCHERS[name][0]}=5 {LAUNCHERS[name][1]}=12"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, 0, 1)),
        ({"HOROVOD_RANK": "", "HOROVOD_SIZE": ""}, (0, 1, 0, 1)),
        ({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1"}, (0, 1, 0, 1)),
        # A batch script and a shell of salloc: no step.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, (0, 1, 0, 1)),
        # The tasks of this node, else the largest number of a node.
        ({**variables("slurm", 5, 6, 0, "1(x3),3,2"), "SLURM_NODEID": "4"}, (5, 6, 0, 2)),
        (variables("slurm", 5, 6, 0, "1(x3),3"), (5, 6, 0, 3)),
        # srun with PMI-2 or Flux with PMI: who says the local rank?
        ({"PMI_RANK": "5", "PMI_SIZE": "6", **variables("slurm", 5, 6, 1, "3(x2)")}, (5, 6, 1, 3)),
        ({"PMI_RANK": "5", "PMI_SIZE": "6", "FLUX_TASK_RANK": "5", "FLUX_JOB_SIZE": "6",
          "FLUX_TASK_LOCAL_ID": "2", "FLUX_JOB_NNODES": "2"}, (5, 6, 2, 3)),
        ({"PMI_RANK": "5", "PMI_SIZE": "6", "PALS_RANKID": "5", "PALS_LOCAL_RANKID": "1",
          "PALS_LOCAL_SIZE": "3"}, (5, 6, 1, 3)),
        ({"PMI_RANK": "5", "PMI_SIZE": "6", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": "2"},
         (5, 6, 1, 2)),
        # mpirun and Hydra whose daemons Slurm has started, one on each node.
        ({**MPI_1_OF_4, **variables("slurm", 1, 2, 0, "1(x2)")}, (1, 4, 1, 2)),
        ({**variables("hydra", 3, 4, 1, 2), **variables("slurm", 1, 2, 0, "1(x2)")}, (3, 4, 1, 2)),
        # jsrun sets Open MPI's and PMIx's too; mpirun PMIx's.
        ({**variables("jsrun", 1, 4, 1, 2), **MPI_1_OF_4, "PMIX_RANK": "1"}, (1, 4, 1, 2)),
        # horovodrun in a shell of one task, or of four.
        ({**HOROVOD_1_OF_4, **variables("hydra", 0, 1)}, (1, 4, 1, 2)),
        ({**HOROVOD_1_OF_4, **variables("slurm", 0, 3, 0, "3"), "PMI_RANK": "0", "PMI_SIZE": "3"},
         (1, 4, 1, 2)),
        ({**HOROVOD_1_OF_4, **MPI_1_OF_4}, (1, 4, 1, 2)),
        # An MPI that says 1, such as an image's own, does not hide the one that started the job.
        ({**variables("openmpi", 0, 1, 0, 1), **variables("hydra", 1, 2, 1, 2)}, (1, 2, 1, 2)),
        # Left in many environments by other things than torchrun.
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, (0, 1, 0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
          "TORCHELASTIC_RUN_ID": "x"}, (1, 2, 1, 2)),
    ],
)  # fmt: skip
def test_read(environment, expected):
    assert launcher.read(environment)[1:5] == expected


@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.parametrize("text", ["abc", "-1", "1.0", "0x1", " 1", "1_0", "9" * 30, "\u0661"])
def test_read_refuses_what_is_no_number(name, text):
    for position in range(3):
        numbers = [1, 2, 1, 2]
        numbers[position] = text
        environment = variables(name, *numbers)
        with pytest.raises(UserError) as error:
            launcher.read(environment)
        assert str(error.value).startswith(f"{LAUNCHERS[name][position]}={text}: expected a whole")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_read_refuses_numbers_out_of_range(name):
    rank, size, local_rank, _ = LAUNCHERS[name]
    for numbers, text in (
        ((5, 2, 0, 2), f"{rank}=5, {size}=2: expected a rank from 0 to 1"),
        ((2, 2, 0, 2), f"{rank}=2, {size}=2: expected a rank from 0 to 1"),
        ((0, 0, 0, 1), f"{size}=0: expected a whole number, 1 or more"),
        ((1, 2, 5, 2), f"{local_rank}=5, "),
        ((1, 2, 1, 3), f"{rank}=1 {size}=2 and 3 local ranks: expected at most 2"),
    ):
        with pytest.raises(UserError) as error:
            launcher.read(variables(name, *numbers))
        assert str(error.value).startswith(text)


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"HOROVOD_RANK": "1"}, "HOROVOD_RANK=1 without HOROVOD_SIZE: set "),
        ({"HOROVOD_SIZE": "2"}, "HOROVOD_SIZE=2 without HOROVOD_RANK: set "),
        ({"HOROVOD_LOCAL_RANK": "1"}, "HOROVOD_LOCAL_RANK=1 without HOROVOD_RANK: set "),
        ({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2"},
         "HOROVOD_RANK=1 HOROVOD_SIZE=2 without a local rank: set HOROVOD_LOCAL_RANK"),
        ({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "0"},
         "HOROVOD_RANK=1 HOROVOD_SIZE=2 without a local size: set HOROVOD_LOCAL_SIZE"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"},
         "PMI_RANK=1 PMI_SIZE=2 without a local rank: set HOROVOD_LOCAL_RANK"),
        ({"PMIX_RANK": "3"}, "PMIX_RANK=3: PMIx started this process, but no variable says"),
        ({"PALS_RANKID": "3"}, "PALS_RANKID=3: PALS started"),
        ({"FLUX_TASK_RANK": "3"}, "FLUX_TASK_RANK=3: Flux started"),
        ({"MPI_LOCALRANKID": "1"}, "MPI_LOCALRANKID=1: MPICH, Intel MPI or "),
        ({**HOROVOD_1_OF_4, **variables("openmpi", 2, 4, 0, 2)},
         "HOROVOD_RANK=1 HOROVOD_SIZE=4, but OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4 (Open "),
        ({**variables("gloo", 0, 1, 0, 1), **variables("hydra", 0, 2, 0, 2)},
         "HOROVOD_RANK=0 HOROVOD_SIZE=1, but PMI_RANK=0 PMI_SIZE=2 (MPICH"),
        (variables("slurm", 0, 2, 0, "2(3)"), "SLURM_STEP_TASKS_PER_NODE=2(3): expected numbers"),
    ],
)  # fmt: skip
def test_read_refuses_what_it_does_not_understand(environment, text):
    with pytest.raises(UserError) as error:
        launcher.read(environment)
    assert str(error.value).startswith(text)


def test_horovod_with_gloo_alone_refuses_other_launchers():
    rendezvous = {"HOROVOD_GLOO_RENDEZVOUS_ADDR": "h", "HOROVOD_GLOO_RENDEZVOUS_PORT": "7"}
    _check_gloo(launcher.read(HOROVOD_1_OF_4), rendezvous)
    with pytest.raises(UserError, match=r"Open MPI started 4 ranks, .* horovodrun -np 4 "):
        _check_gloo(launcher.read(MPI_1_OF_4), rendezvous)
    for name in rendezvous:
        left = {key: value for key, value in rendezvous.items() if key != name}
        with pytest.raises(UserError, match=f"^HOROVOD_RANK=1 HOROVOD_SIZE=4 without {name}: "):
            _check_gloo(launcher.read(HOROVOD_1_OF_4), left)


class FakeHorovod(types.ModuleType):
    """Horovod as built with MPI or without, where a launcher has made this rank 1 of 4 or not."""

    def __init__(self, mpi, rank, size):
        super().__init__("horovod.tensorflow")
        self.mpi_built = lambda: mpi
        self.rank, self.size = (lambda: rank), (lambda: size)
        self.local_rank, self.local_size = (lambda: 1), (lambda: 2)
        self.started = False

    def init(self):
        self.started = True


@pytest.fixture
def horovod(monkeypatch):
    """Returns a function that puts a `FakeHorovod` in place of Horovod."""

    def put(*arguments):
        fake = FakeHorovod(*arguments)
        monkeypatch.setitem(sys.modules, "horovod", types.ModuleType("horovod"))
        monkeypatch.setitem(sys.modules, "horovod.tensorflow", fake)
        sys.modules["horovod"].tensorflow = fake
        return fake

    return put


def test_connect_takes_an_mpi_launcher_where_horovod_has_mpi(horovod):
    horovod(True, 1, 4)
    cluster = connect(launcher.read(MPI_1_OF_4))
    assert (cluster.rank, cluster.size, cluster.local_rank, cluster.local_size) == (1, 4, 1, 2)


def test_connect_without_mpi_starts_nothing_under_an_mpi_launcher(horovod):
    fake = horovod(False, 0, 1)
    with pytest.raises(
        UserError, match=r"^OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4: Open MPI"
    ):
        connect(launcher.read(MPI_1_OF_4))
    assert not fake.started


@pytest.mark.parametrize(("rank", "size"), [(0, 1), (2, 4)])
def test_connect_refuses_ranks_that_horovod_sees_otherwise(horovod, rank, size):
    horovod(True, rank, size)
    with pytest.raises(UserError, match=f"but Horovod sees rank {rank} of {size}: expected the"):
        connect(launcher.read(MPI_1_OF_4))


def test_main_ends_at_once_with_one_line(monkeypatch, capsys):
    import main

    monkeypatch.setattr(main.environment, "prepare", lambda: None)
    for name in list(os.environ):
        if name.startswith(("HOROVOD_", "OMPI_", "PMI", "SLURM_")):
            monkeypatch.delenv(name)
    for environment, text in (
        ({"HOROVOD_RANK": "abc"}, "error: HOROVOD_RANK=abc: expected a whole number"),
        ({"HOROVOD_RANK": "5", "HOROVOD_SIZE": "2"}, "error: HOROVOD_RANK=5, HOROVOD_SIZE=2: "),
    ):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert main.main(["main.py"]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith(text)
        assert shown.err.count("\n") == 1
