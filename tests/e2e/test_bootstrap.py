"""bootstrap.sh with a Python that installs nothing but writes down what it was asked."""

import os
import subprocess

import pytest

from deploy import requirements
from tests.support.paths import ROOT

# Makes "environments" that hold itself. While `killer` exists, installing TensorFlow kills the
# script that asked for it, as a user's Ctrl-C or a full disk would.
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
        # The test's folder may have less room than an environment needs.
        self._program(folder / "bin" / "df", "#!/bin/sh\necho header; echo disk 9 9 99999999 9 /\n")

    @staticmethod
    def _program(path, text):
        path.write_text(text)
        path.chmod(0o755)
        return path

    def bootstrap(self, *tensorflow, **variables):
        """Returns the exit status, what was printed, and what Python was asked for."""
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


def test_a_second_time_keeps_the_environment(machine):
    status, said, asked = machine.bootstrap()
    assert status == 0 and said.endswith("bootstrap: ready\n"), said
    assert asked.count("-m venv") == 1
    status, said, asked = machine.bootstrap()
    assert status == 0, said
    assert "-m venv" not in asked
    assert asked.count("--group cpu") == 1  # what the lock pins may be new


def test_horovod_is_built_where_it_does_not_import(machine, tmp_path):
    machine.horovod.unlink()
    status, said, asked = machine.bootstrap(DLRM_HOROVOD_WHEELS=str(tmp_path / "wheels"))
    assert status == 1 and "deploy/horovod/environment.py" in asked
    assert said.endswith(
        "horovod: nothing to build Horovod for\n"
        f"bootstrap: {machine.environment} has no Horovod: see above\n"
    )


def test_an_environment_left_half_made_is_made_again(machine):
    machine.killer.touch()
    assert machine.bootstrap()[0] == -9
    machine.killer.unlink()
    status, said, asked = machine.bootstrap()
    assert status == 0, said
    assert f"{machine.environment} was left half made; it is made again" in said
    assert asked.count("-m venv --clear") == 1
    status, said, asked = machine.bootstrap()
    assert status == 0 and "half made" not in said and "-m venv" not in asked


def test_a_folder_with_something_else_is_left_alone(machine):
    machine.environment.mkdir(parents=True)
    foreign = machine.environment / "thesis.txt"
    foreign.write_text("years of work")
    for _ in range(2):
        status, said, asked = machine.bootstrap()
        assert status == 1 and "holds something else than a virtual environment" in said
        assert "venv" not in asked and foreign.read_text() == "years of work"
    assert sorted(os.listdir(machine.environment)) == ["thesis.txt"]
    assert sorted(os.listdir(machine.environment.parent)) == ["environment"]


def test_a_file_in_place_of_the_folder_is_said(machine):
    machine.environment.parent.mkdir()
    machine.environment.write_text("not a folder")
    status, said, asked = machine.bootstrap()
    assert status == 1 and said.endswith("environment is no folder\n") and not asked
    assert machine.environment.read_text() == "not a folder"


def test_an_empty_folder_will_do(machine):
    machine.environment.mkdir(parents=True)
    assert machine.bootstrap()[0] == 0


@pytest.mark.parametrize("killed", [True, False])
def test_an_update_that_fails_costs_no_environment(machine, killed):
    assert machine.bootstrap()[0] == 0
    (machine.killer if killed else machine.offline).touch()
    assert machine.bootstrap()[0] == (-9 if killed else 1)
    machine.killer.unlink(missing_ok=True)
    machine.offline.unlink(missing_ok=True)
    status, said, asked = machine.bootstrap()
    assert status == 0 and "left half updated; its packages are installed again" in said
    assert "-m venv" not in asked
    assert "--force-reinstall" in next(line for line in asked.splitlines() if "--group cpu" in line)
    status, said, asked = machine.bootstrap()
    assert status == 0 and "half updated" not in said and "--force-reinstall" not in asked


def test_a_gpu_brings_the_tensorflow_that_uses_it(machine):
    found = {"FAKE_GPUS": "GPU 0: NVIDIA H200 (UUID: GPU-1)\n"}
    asked = machine.bootstrap(**found)[2]
    assert "--group gpu --group environment" in asked and "-m deploy.cuda_links" in asked
    # It stays what it is where the GPU is not seen for once, and says so to who wants another.
    assert "--group gpu --group environment" in machine.bootstrap()[2]
    status, said, asked = machine.bootstrap(DEVICE="cpu")
    assert status == 1 and "has TensorFlow for the gpu, not the cpu: remove it" in said
    assert "--group" not in asked


def test_device_outranks_the_gpu_that_is_found(machine):
    asked = machine.bootstrap(DEVICE="cpu", FAKE_GPUS="GPU 0: NVIDIA H200\n")[2]
    assert "--group cpu" in asked and "--group gpu" not in asked


def test_a_tensorflow_without_cuda_packages_says_who_must_bring_cuda(machine):
    status, said, asked = machine.bootstrap("2.13.1", DEVICE="gpu")
    assert status == 0 and "the machine must have it" in said
    assert "--group gpu-alone" in asked and "deploy.cuda_links" not in asked


def test_each_tensorflow_is_installed_from_its_lock(machine):
    for version in requirements.supported():
        python = requirements.supported()[version][0]
        status, said, asked = machine.bootstrap(version, FAKE_VERSION=python)
        assert status == 0, said
        assert f"-c locks/tensorflow-{version}.txt --group cpu" in asked
        pins = (machine.environment / "constraints.txt").read_text()
        assert pins == requirements.lock_path(version).read_text()


TABLE = "Supported: TensorFlow 2.12.1, 2.13.1"


@pytest.mark.parametrize(
    "tensorflow, python, words",
    [
        ("2.11.0", "3.9", "TensorFlow 2.11.0 is not supported"),
        ("2.15", "3.11", "TensorFlow 2.15 is not supported"),
        ("", "3.11", "TensorFlow  is not supported"),
        ("2.15.1", "3.12", "is not supported on"),
        ("2.21.0", "3.9", "is not supported on"),
        ("2.21.0", "3.14", "is not supported on"),
        ("2.21.0", "3.1", "is not supported on"),
    ],
)
def test_what_the_table_lacks_is_one_line_that_shows_it(machine, tensorflow, python, words):
    status, said, asked = machine.bootstrap(tensorflow, FAKE_VERSION=python)
    assert status == 1 and "venv" not in asked
    assert said.startswith("bootstrap: ") and words in said and said.count("\n") == 1
    assert TABLE in said and "2.21.0 (default) on Python 3.10-3.13" in said
    assert not machine.environment.exists()


@pytest.mark.parametrize(
    "variables, words",
    [
        ({"PYTHON": "no-such-python"}, "PYTHON=no-such-python was not found"),
        ({"PYTHON": "false"}, "PYTHON=false is no working Python"),
        ({"DEVICE": "tpu"}, "DEVICE=tpu: expected cpu or gpu"),
        ({"CXX": "no-such-compiler"}, "no C++ compiler: no-such-compiler was not found"),
        ({"CXX": "false"}, "false does not compile C++17"),
    ],
)
def test_what_the_machine_lacks_is_one_line(machine, variables, words):
    status, said, _ = machine.bootstrap(**variables)
    assert status == 1
    assert said.startswith("bootstrap: ") and words in said and said.count("\n") == 1
    assert not machine.environment.exists()
