"""The Kubernetes manifest agrees with itself, with main.py and with the Dockerfile."""

import pytest
import yaml

from tests.support.paths import ROOT
from training import cli

PROGRAM = ["./hvd_wrapper.sh", "python3", "main.py"]


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


def test_mpijob_flags_are_flags_of_main(job, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = container(job, "Launcher")["args"]
    config = cli.parse(command[command.index("main.py") :])
    data, runs = config.data.data_dir, config.output.run_dir
    checkpoints, batch = config.checkpoint.checkpoint_dir, config.training.batch_size
    ranks = int(command[command.index("-np") + 1])
    assert batch % ranks == 0
    mounts = {m["mountPath"]: m for m in container(job, "Worker")["volumeMounts"]}
    assert data in mounts
    assert runs in mounts
    assert not mounts[runs].get("readOnly")
    assert any(checkpoints.startswith(f"{path}/") for path in mounts)
    pod = job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]
    assert {m["name"] for m in mounts.values()} == {v["name"] for v in pod["volumes"]}


def test_dockerfile_and_manifest_agree_on_the_folder(job):
    folder = next(
        line.split()[1]
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("WORKDIR")
    )
    assert {container(job, role)["workingDir"] for role in ("Launcher", "Worker")} == {folder}
