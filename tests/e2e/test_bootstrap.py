"""bootstrap.sh with a fake Python that only records its arguments."""

import os
import subprocess

import pytest

from deploy import requirements
from tests.support.paths import ROOT

# Its environments contain a copy of itself. While the file `killer` exists, installing TensorFlow
# kills bootstrap.sh; while `offline` exists, it fails.
PYTHON = """#!/usr/bin/env bash
echo "$*" >>"{log}"
case "$*" in
  "-c import sys; print"*) echo "${{FAKE_VERSION:-3.11}}" ;;
  "-m venv --clear "*) rm -rf "$4" && mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *"--group cpu"*)
    if [[ -e "{killer}" ]]; then kill -9 $PPID; fi
    if [[ -e "{offline}" ]]; then exit 1; fi ;;
  "-c import horovod.tensorflow") test -e "{horovod}" ;;
  *deploy/horovod/environment.py*) echo "nothing to build Horovod for"; exit 1 ;;
esac
"""


class Machine:
    def __init__(self, folder):
        names = ("log", "killer", "horovod", "offline")
        files = {name: folder / name for name in names}
        self.log, self.killer, self.horovod, self.offline = files.values()
        self.environment = folder / "new" / "environment"
        self.horovod.touch()
        (folder / "bin").mkdir()
        self.python = self._program(folder / "bin" / "python3", PYTHON.format(**files))
        self.path = f"{folder / 'bin'}:{os.environ['PATH']}"
        self._program(folder / "bin" / "nvidia-smi", '#!/bin/sh\nprintf "$FAKE_GPUS"\n')
        # The test's folder may have less free space than an environment needs.
        self._program(folder / "bin" / "df", "#!/bin/sh\necho header; echo disk 9 9 99999999 9 /\n")

    @staticmethod
    def _program(path, text):
        path.write_text(text)
        path.chmod(0o755)
        return path

    def bootstrap(self, *tensorflow, **variables):
        """Returns (exit code, output, recorded arguments of Python)."""
        self.log.write_text("")
        done = subprocess.run(
            [ROOT / "bootstrap.sh", self.environment, *tensorflow], text=True, timeout=60,
            env={**os.environ, "PATH": self.path, "PYTHON": str(self.python), **variables},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout, self.log.read_text()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_second_call_keeps_environment(machine):
    machine.environment.mkdir(parents=True)  # An empty folder is accepted.
    status, output, calls = machine.bootstrap()
    assert status == 0 and output.endswith("bootstrap: ready\n"), output
    assert calls.count("-m venv") == 1
    status, output, calls = machine.bootstrap()
    assert status == 0, output
    assert "-m venv" not in calls
    assert calls.count("--group cpu") == 1  # The lock may have changed.


def test_horovod_is_built_if_it_does_not_import(machine, tmp_path):
    machine.horovod.unlink()
    status, output, calls = machine.bootstrap(DLRM_HOROVOD_WHEELS=str(tmp_path / "wheels"))
    assert status == 1 and "deploy/horovod/environment.py" in calls
    error, last = output.splitlines()[-2:]
    assert error == "horovod: nothing to build Horovod for"
    assert last.startswith(f"bootstrap: {machine.environment} has no Horovod")


def test_interrupted_environment_is_recreated(machine):
    machine.killer.touch()
    assert machine.bootstrap()[0] == -9
    machine.killer.unlink()
    status, output, calls = machine.bootstrap()
    assert status == 0, output
    assert f"{machine.environment} is incomplete" in output
    assert calls.count("-m venv --clear") == 1
    status, output, calls = machine.bootstrap()
    assert status == 0 and "incomplete" not in output and "-m venv" not in calls


def test_other_files_are_kept(machine):
    machine.environment.parent.mkdir()
    machine.environment.write_text("not a folder")
    status, output, calls = machine.bootstrap()
    assert status == 1 and str(machine.environment) in output and not calls
    assert machine.environment.read_text() == "not a folder"
    machine.environment.unlink()
    machine.environment.mkdir()
    foreign = machine.environment / "thesis.txt"
    foreign.write_text("years of work")
    for _ in range(2):
        status, output, calls = machine.bootstrap()
        assert status == 1 and output.startswith(f"bootstrap: {machine.environment}: ")
        assert "venv" not in calls and foreign.read_text() == "years of work"
    assert sorted(os.listdir(machine.environment)) == ["thesis.txt"]
    assert sorted(os.listdir(machine.environment.parent)) == ["environment"]


@pytest.mark.parametrize("killed", [True, False])
def test_failed_update_keeps_environment_and_is_repeated(machine, killed):
    assert machine.bootstrap()[0] == 0
    (machine.killer if killed else machine.offline).touch()
    assert machine.bootstrap()[0] == (-9 if killed else 1)
    machine.killer.unlink(missing_ok=True)
    machine.offline.unlink(missing_ok=True)
    status, output, calls = machine.bootstrap()
    assert status == 0 and "reinstalling" in output
    assert "-m venv" not in calls
    assert "--force-reinstall" in next(line for line in calls.splitlines() if "--group cpu" in line)
    status, output, calls = machine.bootstrap()
    assert status == 0 and "reinstalling" not in output and "--force-reinstall" not in calls


def test_gpu_selects_gpu_packages_for_good(machine):
    found = {"FAKE_GPUS": "GPU 0: NVIDIA H200 (UUID: GPU-1)\n"}
    calls = machine.bootstrap(**found)[2]
    assert "--group gpu --group environment" in calls and "-m deploy.cuda_links" in calls
    # An existing environment keeps its device; another DEVICE is an error.
    assert "--group gpu --group environment" in machine.bootstrap()[2]
    status, output, calls = machine.bootstrap(DEVICE="cpu")
    assert status == 1 and "expected TensorFlow for cpu, found gpu" in output
    assert "--group" not in calls


def test_device_variable_overrides_detected_gpu(machine):
    calls = machine.bootstrap(DEVICE="cpu", FAKE_GPUS="GPU 0: NVIDIA H200\n")[2]
    assert "--group cpu" in calls and "--group gpu" not in calls


def test_tensorflow_without_cuda_packages_is_reported(machine):
    status, output, calls = machine.bootstrap("2.13.1", DEVICE="gpu")
    assert status == 0 and "it needs CUDA on this machine" in output
    assert "--group gpu-alone" in calls and "deploy.cuda_links" not in calls


def test_each_tensorflow_is_installed_with_its_lock(machine):
    for version in requirements.supported():
        python = requirements.supported()[version][0]
        status, output, calls = machine.bootstrap(version, FAKE_VERSION=python)
        assert status == 0, output
        assert f"-c locks/tensorflow-{version}.txt --group cpu" in calls
        pins = (machine.environment / "constraints.txt").read_text()
        assert pins == requirements.lock_path(version).read_text()


TABLE = "expected TensorFlow 2.12.1, 2.13.1"


@pytest.mark.parametrize(
    "tensorflow, python, found",
    [
        ("2.11.0", "3.9", "2.11.0"),
        ("2.15", "3.11", "2.15"),
        ("", "3.11", ""),
        ("2.15.1", "3.12", "TensorFlow 2.15.1"),
        ("2.21.0", "3.14", "TensorFlow 2.21.0"),
        ("2.21.0", "3.1", "TensorFlow 2.21.0"),
    ],
)
def test_unsupported_version_is_one_line_with_table(machine, tensorflow, python, found):
    status, output, calls = machine.bootstrap(tensorflow, FAKE_VERSION=python)
    assert status == 1 and "venv" not in calls
    assert output.startswith("bootstrap: ") and found in output and output.count("\n") == 1
    assert TABLE in output and "2.21.0 (default) on Python 3.10-3.13" in output
    assert not machine.environment.exists()


@pytest.mark.parametrize(
    "variables, name",
    [
        ({"PYTHON": "no-such-python"}, "PYTHON=no-such-python"),
        ({"PYTHON": "false"}, "PYTHON=false"),
        ({"DEVICE": "tpu"}, "DEVICE=tpu: expected cpu or gpu"),
        ({"CXX": "no-such-compiler"}, "no-such-compiler"),
        ({"CXX": "false"}, "C++17"),
    ],
)
def test_missing_tool_is_one_line(machine, variables, name):
    status, output, _ = machine.bootstrap(**variables)
    assert status == 1
    assert output.startswith("bootstrap: ") and name in output and output.count("\n") == 1
    assert not machine.environment.exists()
