"""bootstrap.sh with a fake Python that only records its arguments."""

import os
import re
import shutil
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

# Prints GPUs one by one, as for many GPUs, and fails if nobody reads all of them.
NVIDIA_SMI = r"""#!/bin/bash
set -o pipefail
case "$*" in
  *driver_version*) echo "${FAKE_DRIVER:-580.65.06}" ;;
  *compute_cap*) printf "${FAKE_CAPABILITIES:-9.0}\n" ;;
  *) printf "$FAKE_GPUS" | while read -r line; do echo "$line" || exit 9; sleep 0.1; done ;;
esac
"""
GPU = {"FAKE_GPUS": "GPU 0: NVIDIA H200 (UUID: GPU-0)\n"}


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
        self._program(folder / "bin" / "nvidia-smi", NVIDIA_SMI)
        # The test's folder may have less free space than an environment needs.
        self._program(folder / "bin" / "df", "#!/bin/sh\necho header; echo disk 9 9 99999999 9 /\n")

    def nvcc(self, release):
        """Returns the variables that select an nvcc: of a CUDA release, or pip's if None."""
        if release is None:
            return {"DLRM_NVCC": "pip"}
        script = f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n"
        return {"DLRM_NVCC": str(self._program(self.python.parent / "some-nvcc", script))}

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
            stdin=subprocess.DEVNULL,
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


def installed(calls):
    """Returns the groups that pip installed, in order."""
    line = next(line for line in calls.splitlines() if "--group environment" in line)
    return re.findall(r"--group (\S+)", line)


def test_gpu_selects_gpu_packages_for_good(machine):
    nvcc = machine.nvcc("13.0")
    calls = machine.bootstrap(**GPU, **nvcc)[2]
    assert installed(calls) == ["gpu", "environment"] and "-m deploy.cuda_links" in calls
    # An existing environment keeps its device; another DEVICE is an error.
    assert installed(machine.bootstrap(**nvcc)[2]) == ["gpu", "environment"]
    status, output, calls = machine.bootstrap(DEVICE="cpu", **nvcc)
    assert status == 1 and "expected TensorFlow for cpu, found gpu" in output
    assert "--group" not in calls


def test_all_gpus_of_a_host_are_read(machine, rng):
    # Otherwise nvidia-smi gets SIGPIPE, and the host seems to have no GPU.
    listing = "".join(f"GPU {i}: NVIDIA H200\\n" for i in range(rng.integers(2, 5)))
    calls = machine.bootstrap(FAKE_GPUS=listing, **machine.nvcc("13.0"))[2]
    assert installed(calls) == ["gpu", "environment"]


def test_nvcc_is_installed_where_the_host_has_none(machine, tmp_path):
    status, output, calls = machine.bootstrap(**GPU, **machine.nvcc(None))
    assert status == 0 and "installing nvcc from pip" in output, output
    assert installed(calls) == ["gpu", "nvcc", "environment"]
    toolkit = tmp_path / "toolkit" / "bin"
    toolkit.mkdir(parents=True)
    shutil.copy2(machine.nvcc("13.0")["DLRM_NVCC"], toolkit / "nvcc")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        calls = machine.bootstrap(**GPU, DLRM_NVCC="", **{name: str(toolkit.parent)})[2]
        assert installed(calls) == ["gpu", "environment"]
    # A CPU environment needs no nvcc.
    shutil.rmtree(machine.environment)
    assert installed(machine.bootstrap(**machine.nvcc(None))[2]) == ["cpu", "environment"]


@pytest.mark.parametrize(
    "release, driver, oldest",
    [
        (None, "580.65.06", None),
        (None, "590.10", None),
        (None, "[N/A]", None),
        (None, "580.65.05", "580.65.06"),
        (None, "575.57.08", "580.65.06"),
        ("13.1", "99.1", "580.65.06"),
        ("12.4", "525.60.13", None),
        ("12.4", "525.60.9", "525.60.13"),
        ("11.8", "470.1", None),
    ],
)
def test_old_driver_selects_the_cpu_in_one_line(machine, release, driver, oldest):
    settings = {**GPU, **machine.nvcc(release), "FAKE_DRIVER": driver}
    status, output, calls = machine.bootstrap(**settings)
    assert status == 0, output
    assert installed(calls)[0] == ("cpu" if oldest else "gpu")
    lines = [line for line in output.splitlines() if "NVIDIA driver" in line]
    assert len(lines) == (1 if oldest else 0)
    if oldest:
        for word in (
            f"need {oldest} or later, found {driver}",
            "CUDA 12",
            str(machine.environment),
        ):
            assert word in lines[0]
        # DEVICE=gpu may be for another host.
        shutil.rmtree(machine.environment)
        output, calls = machine.bootstrap(**settings, DEVICE="gpu")[1:]
        assert installed(calls)[0] == "gpu" and output.count("do not run on this host") == 1


@pytest.mark.parametrize(
    "capabilities, device",
    [("7.5", "cpu"), (r"7.0\n7.5", "cpu"), (r"8.0\n7.5", "gpu"), ("10.3", "gpu"), ("[N/A]", "gpu")],
)
def test_unsupported_gpus_select_the_cpu_in_one_line(machine, capabilities, device):
    settings = {**GPU, **machine.nvcc("13.0"), "FAKE_CAPABILITIES": capabilities}
    status, output, calls = machine.bootstrap(**settings)
    assert status == 0 and installed(calls) == [device, "environment"]
    newest = capabilities.split(r"\n")[-1]
    assert output.count(f"need compute capability 8.0 or later, found {newest}:") == (
        device == "cpu"
    )


def test_environment_for_the_cpu_on_a_gpu_host_is_reported(machine):
    machine.bootstrap()
    status, output, calls = machine.bootstrap(**GPU, **machine.nvcc("13.0"))
    assert status == 0 and installed(calls) == ["cpu", "environment"]
    (line,) = (line for line in output.splitlines() if "this host has a GPU" in line)
    assert str(machine.environment) in line
    # Not if the user selects the CPU.
    output = machine.bootstrap(**GPU, DEVICE="cpu")[1]
    assert "GPU" not in output


def test_device_variable_overrides_detected_gpu(machine):
    _, output, calls = machine.bootstrap(DEVICE="cpu", **GPU)
    assert installed(calls) == ["cpu", "environment"] and "GPU" not in output


@pytest.mark.parametrize("device, checked", [("gpu", True), ("cpu", False), ("", False)])
def test_make_checks_the_device_of_an_existing_environment(tmp_path, device, checked):
    (tmp_path / "locks").symlink_to(ROOT / "locks")
    script = tmp_path / "bootstrap.sh"
    script.write_text("#!/bin/sh\necho checked; exit 1\n")
    script.chmod(0o755)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".device").write_text("cpu\n")
    (tmp_path / ".venv" / ".ready").touch()
    sources = [script, *(ROOT / "locks").iterdir()]
    newest = max(path.stat().st_mtime for path in sources)
    os.utime(tmp_path / ".venv" / ".ready", (newest + 9, newest + 9))
    done = subprocess.run(
        ["make", "-f", ROOT / "Makefile", "venv"], cwd=tmp_path, text=True, capture_output=True,
        env={"PATH": os.environ["PATH"], "DEVICE": device},
    )  # fmt: skip
    assert (done.returncode != 0) == ("checked" in done.stdout) == checked, done.stderr


def test_tensorflow_without_cuda_packages_is_reported(machine):
    status, output, calls = machine.bootstrap("2.13.1", DEVICE="gpu", **machine.nvcc("11.8"))
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
