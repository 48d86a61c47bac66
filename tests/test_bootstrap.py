"""bootstrap.sh with a Python that installs nothing but writes down what it was asked."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Makes "environments" that hold itself. While `killer` exists, installing TensorFlow kills the
# script that asked for it, as a user's Ctrl-C or a full disk would.
PYTHON = """#!/usr/bin/env bash
echo "$*" >>"{log}"
case "$*" in
  "-m venv --clear "*) rm -rf "$4" && mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *tensorflow-cpu*)
    if [[ -e "{killer}" ]]; then kill -9 $PPID; fi
    if [[ -e "{offline}" ]]; then exit 1; fi ;;
  "-c import horovod.tensorflow") test -e "{horovod}" ;;
  *"--no-binary horovod"*) touch "{horovod}" ;;
esac
"""


class Machine:
    def __init__(self, folder):
        names = ("log", "killer", "horovod", "offline")
        files = {name: folder / name for name in names}
        self.log, self.killer, self.horovod, self.offline = files.values()
        self.environment = folder / "new" / "environment"
        (folder / "bin").mkdir()
        self.python = self._program(folder / "bin" / "python3", PYTHON.format(**files))
        self.path = f"{folder / 'bin'}:{os.environ['PATH']}"
        # The test's folder may have less room than an environment needs.
        self._program(folder / "bin" / "df", "#!/bin/sh\necho header; echo disk 9 9 99999999 9 /\n")

    @staticmethod
    def _program(path, text):
        path.write_text(text)
        path.chmod(0o755)
        return path

    def bootstrap(self, **variables):
        """Returns the exit status, what was printed, and what Python was asked for."""
        self.log.write_text("")
        done = subprocess.run(
            [ROOT / "bootstrap.sh", self.environment], text=True, timeout=60,
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
    assert asked.count("-m venv") == 1 and asked.count("--no-binary horovod") == 1
    status, said, asked = machine.bootstrap()
    assert status == 0, said
    assert "-m venv" not in asked and "--no-binary horovod" not in asked
    assert asked.count("tensorflow-cpu") == 1  # what constraints.txt says may be new


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
    assert "--force-reinstall" in next(line for line in asked.splitlines() if "tensorflow" in line)
    status, said, asked = machine.bootstrap()
    assert status == 0 and "half updated" not in said and "--force-reinstall" not in asked


@pytest.mark.parametrize(
    "variables, words",
    [
        ({"PYTHON": "no-such-python"}, "PYTHON=no-such-python was not found"),
        ({"PYTHON": "false"}, "PYTHON=false is no working Python"),
        ({"CXX": "no-such-compiler"}, "no C++ compiler: no-such-compiler was not found"),
        ({"CXX": "false"}, "false does not compile C++17"),
    ],
)
def test_what_the_machine_lacks_is_one_line(machine, variables, words):
    status, said, _ = machine.bootstrap(**variables)
    assert status == 1
    assert said.startswith("bootstrap: ") and words in said and said.count("\n") == 1
    assert not machine.environment.exists()
