"""The launchers, with stand-ins for srun, scontrol, horovodrun, docker and nvidia-smi.

The stand-ins print the arguments they get; real clusters are not tried here.
"""

import os
import pathlib
import subprocess
import sys

import pytest
import yaml

from tests.support.paths import ROOT
from training.runtime.gpus import parse_listing

FLAGS = ["--flagfile=configs/sok-amp-epoch.flags", "--run_dir=a folder", "--lr=1"]
PROGRAM = ["./hvd_wrapper.sh", "python3", "main.py"]


@pytest.fixture
def tools(tmp_path):
    """Returns a function (name, script=print the arguments) that makes a stand-in tool."""
    folder = tmp_path / "tools"
    folder.mkdir()

    def make(name, script='printf "%s\\n" "$(basename "$0")" "$@"'):
        tool = folder / name
        tool.write_text(f"#!/usr/bin/env bash\n{script}\n")
        tool.chmod(0o755)
        return folder

    return make


def run(script, tools, *arguments, cwd=ROOT, **variables):
    """Runs a launcher; returns the CompletedProcess, its output as lines."""
    path = f"{tools('true')}:/usr/bin:/bin"
    done = subprocess.run(
        [str(ROOT / "launchers" / script), *arguments], cwd=cwd, text=True, capture_output=True,
        env={"PATH": path, "HOME": "/tmp", **variables}, timeout=200, check=False,
    )  # fmt: skip
    return done, done.stdout.splitlines()


@pytest.fixture
def slurm(tmp_path, tools):
    """A checkout with the files that the script looks for, and Slurm's variables."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "main.py").touch()
    (checkout / "hvd_wrapper.sh").touch(mode=0o755)
    tools("srun")
    tools("scontrol", '[[ $* == "show hostnames n[3-4]" ]] && printf "n3\\nn4\\n"')
    return {"SLURM_SUBMIT_DIR": str(checkout), "SLURM_JOB_NUM_NODES": "2",
            "SLURM_NTASKS_PER_NODE": "8", "SLURM_JOB_NODELIST": "n[3-4]"}  # fmt: skip


def horovodrun(tools, mpi):
    mark = "X" if mpi else " "
    tools("horovodrun", f'[[ $1 == --check-build ]] && echo "    [{mark}] MPI" && exit\n'
          'printf "%s\\n" "$(basename "$0")" "$@"')  # fmt: skip


def test_slurm_starts_ranks_by_mpi_where_horovod_has_it(slurm, tools):
    horovodrun(tools, mpi=True)
    done, words = run("slurm.sbatch", tools, *FLAGS, **slurm)
    assert done.returncode == 0, done.stderr
    # Without --kill-on-bad-exit the others would wait for a rank that has ended.
    assert words == [
        "srun", "--mpi=pmix", "--kill-on-bad-exit=1", "--ntasks=16", "--ntasks-per-node=8",
        *PROGRAM, *FLAGS,
    ]  # fmt: skip


def test_slurm_starts_ranks_by_ssh_with_gloo_alone(slurm, tools):
    horovodrun(tools, mpi=False)
    done, words = run("slurm.sbatch", tools, *FLAGS, **slurm)
    assert done.returncode == 0, done.stderr
    assert words == ["horovodrun", "-np", "16", "-H", "n3:8,n4:8", *PROGRAM, *FLAGS]


@pytest.mark.parametrize("mounts", ["", "/data:/data,/scratch:/s"])
def test_slurm_in_a_container(slurm, tools, mounts):
    checkout = slurm["SLURM_SUBMIT_DIR"]
    extra = {"CONTAINER": "image.sqsh", "MPI": "pmi2", **({"MOUNTS": mounts} if mounts else {})}
    done, words = run("slurm.sbatch", tools, *FLAGS, **slurm, **extra)
    assert done.returncode == 0, done.stderr
    seen = f"{checkout}:{checkout}" + (f",{mounts}" if mounts else "")
    assert words == [
        "srun", "--mpi=pmi2", "--kill-on-bad-exit=1", "--ntasks=16", "--ntasks-per-node=8",
        "--container-image=image.sqsh", f"--container-mounts={seen}",
        f"--container-workdir={checkout}", *PROGRAM, *FLAGS,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("SLURM_SUBMIT_DIR", "start it with sbatch"),
        ("SLURM_NTASKS_PER_NODE", "one rank for each GPU"),
        ("main.py", "has no main.py: call sbatch in the repository's root"),
        ("horovodrun", "no horovodrun: run make venv, or set CONTAINER"),
    ],
)
def test_slurm_says_what_is_missing(slurm, tools, missing, message):
    variables = {name: value for name, value in slurm.items() if name != missing}
    if missing == "main.py":
        (pathlib.Path(slurm["SLURM_SUBMIT_DIR"]) / "main.py").unlink()
    if missing != "horovodrun":
        horovodrun(tools, mpi=True)
    done, words = run("slurm.sbatch", tools, *FLAGS, **variables)
    assert done.returncode != 0
    assert message in done.stderr
    assert not words


MIG = ["  MIG 1g.5gb      Device  0: (UUID: MIG-a)", "  MIG 1g.5gb      Device  1: (UUID: MIG-b)"]


@pytest.mark.parametrize(("instances", "ranks"), [([], 2), (MIG[:1], 2), (MIG, 3)])
def test_docker_gives_every_instance_a_rank(tmp_path, tools, instances, ranks):
    listing = ["GPU 0: A100 (UUID: GPU-0)", *instances, "GPU 1: A100 (UUID: GPU-1)"]
    assert len(parse_listing("\n".join(listing))) == ranks
    tools("docker")
    tools("nvidia-smi", "\n".join(f'echo "{line}"' for line in listing))
    done, words = run("docker.sh", tools, DATA=str(tmp_path), RUNS=str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    assert words[words.index("-np") + 1] == str(ranks)


@pytest.mark.parametrize("gpus", [0, 4])
def test_docker_gives_every_gpu_a_rank(tmp_path, tools, gpus):
    data = tmp_path / "the data"
    data.mkdir()
    tools("docker")
    lines = "".join(f'echo "GPU {i}: NVIDIA H200 (UUID: GPU-{i})"\n' for i in range(gpus))
    tools("nvidia-smi", lines or "exit 9")
    done, words = run("docker.sh", tools, *FLAGS, DATA=str(data), RUNS=str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    assert words[:2] == ["docker", "run"]
    image = words.index("dlrm")
    assert words[image + 1 :] == [
        "horovodrun", "-np", str(gpus or 1), *PROGRAM, "--data_dir=/data", "--run_dir=/runs", *FLAGS
    ]  # fmt: skip
    options = words[2:image]
    assert ("--gpus=all" in options) == (gpus > 0)
    assert [options[i + 1] for i, word in enumerate(options) if word == "-v"] == [
        f"{data}:/data:ro", f"{tmp_path / 'new'}:/runs"
    ]  # fmt: skip
    assert "-it" not in options


def test_docker_needs_a_dataset(tools):
    tools("docker")
    done, words = run("docker.sh", tools, *FLAGS)
    assert done.returncode != 0
    assert "set DATA to the dataset folder" in done.stderr
    assert not words
    done, words = run("docker.sh", tools, *FLAGS, DATA="/nowhere")
    assert done.returncode == 2
    assert "DATA=/nowhere: no such folder" in done.stderr
    assert not words


@pytest.fixture(scope="module")
def job():
    return yaml.safe_load((ROOT / "launchers" / "kubernetes-mpijob.yaml").read_text())


def container(job, role):
    (found,) = job["spec"]["mpiReplicaSpecs"][role]["template"]["spec"]["containers"]
    return found


def test_mpijob_starts_one_rank_for_each_gpu(job):
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    spec, worker = job["spec"], container(job, "Worker")
    workers = spec["mpiReplicaSpecs"]["Worker"]["replicas"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == spec["slotsPerWorker"]
    command = container(job, "Launcher")["command"] + container(job, "Launcher")["args"]
    assert all(isinstance(word, str) for word in command)
    assert int(command[command.index("-np") + 1]) == workers * spec["slotsPerWorker"]
    begin = command.index("./hvd_wrapper.sh")
    assert command[begin : begin + 3] == PROGRAM


def test_mpijob_flags_are_those_of_main(job):
    command = container(job, "Launcher")["args"]
    flags = command[command.index("main.py") + 1 :]
    check = (
        "import sys; from training import cli; c = cli.parse(['main.py', *sys.argv[1:]]); "
        "v = c.flags(); "
        "print(v['data_dir'], v['run_dir'], v['checkpoint_dir'], v['global_batch_size'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", check, *flags], cwd=ROOT, text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    data, runs, checkpoints, batch = done.stdout.split()
    ranks = int(command[command.index("-np") + 1])
    assert int(batch) % ranks == 0
    mounts = {m["mountPath"]: m for m in container(job, "Worker")["volumeMounts"]}
    assert data in mounts
    assert runs in mounts
    assert not mounts[runs].get("readOnly")
    assert any(checkpoints.startswith(f"{path}/") for path in mounts)
    # Every mount has its volume.
    pod = job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]
    assert {m["name"] for m in mounts.values()} == {v["name"] for v in pod["volumes"]}


def test_dockerfile_and_manifest_agree_on_the_folder(job):
    folder = next(
        line.split()[1]
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("WORKDIR")
    )
    assert {container(job, role)["workingDir"] for role in ("Launcher", "Worker")} == {folder}
