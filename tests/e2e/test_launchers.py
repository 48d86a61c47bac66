"""The launchers, with stand-ins for srun, scontrol, horovodrun, docker and nvidia-smi.

The stand-ins print their arguments.
"""

import pathlib
import subprocess

import pytest

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
    """The variables of Slurm, for a checkout with the files that the script requires."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "main.py").touch()
    (checkout / "hvd_wrapper.sh").touch(mode=0o755)
    tools("srun")
    tools("scontrol", '[[ $* == "show hostnames n[3-4]" ]] && printf "n3\\nn4\\n"')
    return {"SLURM_SUBMIT_DIR": str(checkout), "SLURM_JOB_NUM_NODES": "2",
            "SLURM_NTASKS_PER_NODE": "8", "SLURM_JOB_NODELIST": "n[3-4]"}  # fmt: skip


SRUN = ("srun", "--mpi=pmix", "--kill-on-bad-exit=1", "--ntasks=16", "--ntasks-per-node=8")
SSH = ("horovodrun", "-np", "16", "-H", "n3:8,n4:8")


def horovodrun(tools, mpi):
    tools("horovodrun", f'[[ $1 == --check-build ]] && echo "    [{mpi}] MPI" && exit\n'
          'printf "%s\\n" "$(basename "$0")" "$@"')  # fmt: skip


@pytest.mark.parametrize(("mpi", "starter"), [("X", SRUN), (" ", SSH)])
def test_slurm_starts_ranks_by_srun_if_horovod_has_mpi_or_else_by_ssh(slurm, tools, mpi, starter):
    horovodrun(tools, mpi)
    done, words = run("slurm.sbatch", tools, *FLAGS, **slurm)
    assert done.returncode == 0, done.stderr
    assert words == [*starter, *PROGRAM, *FLAGS]


@pytest.mark.parametrize("mounts", ["", "/data:/data,/scratch:/s"])
def test_slurm_in_a_container(slurm, tools, mounts):
    checkout = slurm["SLURM_SUBMIT_DIR"]
    extra = {"CONTAINER": "image.sqsh", "MPI": "pmi2", **({"MOUNTS": mounts} if mounts else {})}
    done, words = run("slurm.sbatch", tools, *FLAGS, **slurm, **extra)
    assert done.returncode == 0, done.stderr
    seen = f"{checkout}:{checkout}" + (f",{mounts}" if mounts else "")
    assert words == [
        "srun", "--mpi=pmi2", *SRUN[2:], "--container-image=image.sqsh",
        f"--container-mounts={seen}", f"--container-workdir={checkout}", *PROGRAM, *FLAGS,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("missing", "word"),
    [("SLURM_SUBMIT_DIR", "SLURM_SUBMIT_DIR"), ("SLURM_NTASKS_PER_NODE", "--ntasks-per-node"),
     ("main.py", "main.py"), ("horovodrun", "CONTAINER")],
)  # fmt: skip
def test_slurm_names_what_is_missing(slurm, tools, missing, word):
    variables = {name: value for name, value in slurm.items() if name != missing}
    if missing == "main.py":
        (pathlib.Path(slurm["SLURM_SUBMIT_DIR"]) / "main.py").unlink()
    if missing != "horovodrun":
        horovodrun(tools, "X")
    done, words = run("slurm.sbatch", tools, *FLAGS, **variables)
    assert done.returncode != 0
    assert word in done.stderr
    assert not words


GPUS = ["GPU 0: A100 (UUID: GPU-0)", "GPU 1: A100 (UUID: GPU-1)"]
MIG = ["  MIG 1g.5gb      Device  0: (UUID: MIG-a)", "  MIG 1g.5gb      Device  1: (UUID: MIG-b)"]


@pytest.mark.parametrize(
    ("listing", "gpus"),
    [([], 0), (GPUS, 2), ([GPUS[0], MIG[0], GPUS[1]], 2), ([GPUS[0], *MIG, GPUS[1]], 3)],
)
def test_docker_starts_one_rank_per_device(tmp_path, tools, listing, gpus):
    assert len(parse_listing("\n".join(listing))) == gpus
    data = tmp_path / "the data"
    data.mkdir()
    tools("docker")
    tools("nvidia-smi", "\n".join(f'echo "{line}"' for line in listing) or "exit 9")
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


def test_docker_requires_a_dataset(tools):
    tools("docker")
    for variables, word in (({}, "DATA"), ({"DATA": "/nowhere"}, "DATA=/nowhere")):
        done, words = run("docker.sh", tools, *FLAGS, **variables)
        assert done.returncode != 0
        assert word in done.stderr
        assert not words
