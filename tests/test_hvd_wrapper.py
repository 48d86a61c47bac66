"""hvd_wrapper.sh under the variables that each launcher leaves behind."""

import os
import pathlib
import subprocess

import pytest

WRAPPER = pathlib.Path(__file__).resolve().parents[1] / "hvd_wrapper.sh"
REPORT = (
    'echo "gpu=${CUDA_VISIBLE_DEVICES-unset} omp=$OMP_NUM_THREADS intra=$TF_NUM_INTRAOP_THREADS '
    'inter=$TF_NUM_INTEROP_THREADS cores=$(taskset -pc $$ | sed "s/.*: //")"'
)
LAUNCHERS = {
    "gloo": ("HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
    "openmpi": ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    "slurm": ("SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    "mpich": ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}


def run(variables, command=("bash", "-c", REPORT), path=None):
    keep = {"PATH": path or os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        [str(WRAPPER), *command], env={**keep, **variables}, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip


def fake_gpus(folder, count):
    """Puts an nvidia-smi that lists `count` GPUs in front of the path."""
    tool = folder / "nvidia-smi"
    lines = "".join(f'echo "GPU {i}: NVIDIA H200 (UUID: GPU-{i})"\n' for i in range(count))
    tool.write_text(f"#!/bin/sh\n{lines}")
    tool.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_takes_the_gpu_of_its_local_rank(launcher, tmp_path):
    rank, size = LAUNCHERS[launcher]
    result = run({rank: "3", size: "8"}, path=fake_gpus(tmp_path, 8))
    assert "gpu=3 " in result.stdout
    assert "[hvd_wrapper] local rank 3 of 8: GPU 3 of 8" in result.stdout


def test_leaves_visible_devices_that_were_given(tmp_path):
    variables = {"HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": "2", "CUDA_VISIBLE_DEVICES": "5"}
    assert "gpu=5 " in run(variables, path=fake_gpus(tmp_path, 8)).stdout


def test_more_ranks_than_gpus_is_an_error(tmp_path):
    variables = {"HOROVOD_LOCAL_RANK": "2", "HOROVOD_LOCAL_SIZE": "4"}
    result = run(variables, path=fake_gpus(tmp_path, 2))
    assert result.returncode == 2
    assert "local rank 2 has no GPU: 4 local ranks, 2 GPUs" in result.stderr


def cores_of(text):
    field = text.split("cores=")[1].split()[0]
    cores = set()
    for part in field.split(","):
        first, _, last = part.partition("-")
        cores |= set(range(int(first), int(last or first) + 1))
    return cores


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_divides_the_cores(launcher, size):
    available = os.sched_getaffinity(0)
    rank_name, size_name = LAUNCHERS[launcher]
    shares = []
    for rank in range(size):
        result = run({rank_name: str(rank), size_name: str(size)})
        assert result.returncode == 0, result.stderr
        report = result.stdout.splitlines()[-1]
        share = cores_of(report)
        assert f"omp={len(share)} intra={len(share)}" in report
        shares.append(share)
    assert set.union(*shares) == available
    if size <= len(available):
        assert sum(map(len, shares)) == len(available), "ranks share a core"


def test_thread_counts_that_were_given_stay():
    variables = {"HOROVOD_LOCAL_RANK": "0", "HOROVOD_LOCAL_SIZE": "2", "OMP_NUM_THREADS": "7"}
    assert "omp=7" in run(variables).stdout


def test_slurm_counts_per_node():
    variables = {"SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "1(x2),2"}
    assert "local rank 0 of 2" in run(variables).stdout


def test_passes_arguments_and_exit_code():
    result = run({}, ("python3", "-c", "import sys; print(sys.argv[1:]); sys.exit(7)", "a b", "*"))
    assert result.returncode == 7
    assert "['a b', '*']" in result.stdout


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "2>&-", ">&- 2>&- <&-", "| true"])
def test_starts_the_command_whatever_standard_output_is(redirection, tmp_path):
    done = tmp_path / "done"
    line = f"'{WRAPPER}' sh -c 'sleep 0.2; echo done >{done}; exit 7' {redirection}"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode in (7, 141)
    assert done.read_text() == "done\n"


def test_bad_rank_and_missing_command():
    assert run({"HOROVOD_LOCAL_RANK": "x"}).returncode == 2
    missing = run({}, ())
    assert missing.returncode == 2
    assert "usage:" in missing.stderr
