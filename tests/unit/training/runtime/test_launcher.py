"""Rank and size from the variables of each launcher; errors for variables that make no sense."""

import pytest

from tests.support.training.launchers import LAUNCHERS, variables
from training.runtime import launcher
from training.runtime.errors import UserError

HOROVOD_1_OF_4 = variables("gloo", 1, 4, 1, 2)
MPI_1_OF_4 = variables("openmpi", 1, 4, 1, 2)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_read_takes_the_variables_of_each_launcher(name):
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
        # A batch script or a shell of salloc: not a step.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, (0, 1, 0, 1)),
        # Local size: tasks on this node, else the maximum over nodes.
        ({**variables("slurm", 5, 6, 0, "1(x3),3,2"), "SLURM_NODEID": "4"}, (5, 6, 0, 2)),
        (variables("slurm", 5, 6, 0, "1(x3),3"), (5, 6, 0, 3)),
        # PMI without a local rank: Slurm, Flux, PALS or Horovod provides it.
        ({"PMI_RANK": "5", "PMI_SIZE": "6", **variables("slurm", 5, 6, 1, "3(x2)")}, (5, 6, 1, 3)),
        ({"PMI_RANK": "5", "PMI_SIZE": "6", "FLUX_TASK_RANK": "5", "FLUX_JOB_SIZE": "6",
          "FLUX_TASK_LOCAL_ID": "2", "FLUX_JOB_NNODES": "2"}, (5, 6, 2, 3)),
        ({"PMI_RANK": "5", "PMI_SIZE": "6", "PALS_RANKID": "5", "PALS_LOCAL_RANKID": "1",
          "PALS_LOCAL_SIZE": "3"}, (5, 6, 1, 3)),
        ({"PMI_RANK": "5", "PMI_SIZE": "6", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": "2"},
         (5, 6, 1, 2)),
        # mpirun and Hydra, whose daemons Slurm has started, one per node.
        ({**MPI_1_OF_4, **variables("slurm", 1, 2, 0, "1(x2)")}, (1, 4, 1, 2)),
        ({**variables("hydra", 3, 4, 1, 2), **variables("slurm", 1, 2, 0, "1(x2)")}, (3, 4, 1, 2)),
        # jsrun also sets the variables of Open MPI and PMIx.
        ({**variables("jsrun", 1, 4, 1, 2), **MPI_1_OF_4, "PMIX_RANK": "1"}, (1, 4, 1, 2)),
        # horovodrun in a shell of one task, or of three.
        ({**HOROVOD_1_OF_4, **variables("hydra", 0, 1)}, (1, 4, 1, 2)),
        ({**HOROVOD_1_OF_4, **variables("slurm", 0, 3, 0, "3"), "PMI_RANK": "0", "PMI_SIZE": "3"},
         (1, 4, 1, 2)),
        ({**HOROVOD_1_OF_4, **MPI_1_OF_4}, (1, 4, 1, 2)),
        # The size 1 of another MPI, such as a container's, does not hide the job's launcher.
        ({**variables("openmpi", 0, 1, 0, 1), **variables("hydra", 1, 2, 1, 2)}, (1, 2, 1, 2)),
        # Programs other than torchrun set these too.
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, (0, 1, 0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
          "TORCHELASTIC_RUN_ID": "x"}, (1, 2, 1, 2)),
    ],
)  # fmt: skip
def test_read_with_variables_of_several_launchers(environment, expected):
    assert launcher.read(environment)[1:5] == expected


@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.parametrize("text", ["abc", "-1", "1.0", "0x1", " 1", "1_0", "9" * 30, "\u0661"])
def test_read_refuses_a_value_that_is_not_a_number(name, text):
    for position in range(3):
        numbers = [1, 2, 1, 2]
        numbers[position] = text
        environment = variables(name, *numbers)
        with pytest.raises(UserError) as caught:
            launcher.read(environment)
        assert caught.value.field == LAUNCHERS[name][position]
        assert f"={text}: " in str(caught.value)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_read_refuses_numbers_out_of_range(name):
    rank, size, local_rank, _ = LAUNCHERS[name]
    for numbers, field, bound in (
        ((2, 2, 0, 2), rank, 1),
        ((0, 0, 0, 1), size, None),
        ((1, 2, 5, 2), local_rank, 1),
        ((1, 2, 1, 3), None, 2),
    ):
        with pytest.raises(UserError) as caught:
            launcher.read(variables(name, *numbers))
        assert (caught.value.field, caught.value.bound) == (field, bound)


@pytest.mark.parametrize(
    ("environment", "field"),
    [
        ({"HOROVOD_RANK": "1"}, "HOROVOD_SIZE"),
        ({"HOROVOD_SIZE": "2"}, "HOROVOD_RANK"),
        ({"HOROVOD_LOCAL_RANK": "1"}, "HOROVOD_RANK"),
        ({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2"}, "HOROVOD_LOCAL_RANK"),
        ({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "0"},
         "HOROVOD_LOCAL_SIZE"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "HOROVOD_LOCAL_RANK"),
        ({"PMIX_RANK": "3"}, "HOROVOD_SIZE"),
        ({"PALS_RANKID": "3"}, "HOROVOD_SIZE"),
        ({"FLUX_TASK_RANK": "3"}, "HOROVOD_SIZE"),
        ({"MPI_LOCALRANKID": "1"}, "HOROVOD_SIZE"),
        (variables("slurm", 0, 2, 0, "2(3)"), "SLURM_STEP_TASKS_PER_NODE"),
    ],
)  # fmt: skip
def test_read_refuses_incomplete_variables(environment, field):
    with pytest.raises(UserError) as caught:
        launcher.read(environment)
    assert caught.value.field == field
    name = field if field in environment else next(iter(environment))
    assert f"{name}={environment[name]}" in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({**HOROVOD_1_OF_4, **variables("openmpi", 2, 4, 0, 2)}, "COMM_WORLD_RANK=2 "),
        ({**variables("gloo", 0, 1, 0, 1), **variables("hydra", 0, 2, 0, 2)}, " PMI_SIZE=2 "),
    ],
)
def test_read_refuses_launchers_that_contradict_each_other(environment, words):
    with pytest.raises(UserError, match=f"HOROVOD_RANK={environment['HOROVOD_RANK']} .*{words}"):
        launcher.read(environment)


def test_main_reports_wrong_variables_in_one_line(monkeypatch, capsys):
    import main

    monkeypatch.setattr(main.environment, "prepare", lambda: None)
    monkeypatch.setenv("HOROVOD_RANK", "abc")
    assert main.main(["main.py"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: HOROVOD_RANK=abc")
    assert error.count("\n") == 1
