"""The search for nvcc, the check of the driver and make's report, with fake tools."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

TOOLS = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
CMAKE = shutil.which("cmake", path=TOOLS)
WHEEL_FILES = (
    "bin/nvcc", "include/cuda_runtime.h", "include/cccl/cub/cub.cuh", "nvvm/bin/cicc",
    "lib/libcudart.so.13", "lib/libcudart_static.a",
)  # fmt: skip

pytestmark = pytest.mark.skipif(CMAKE is None, reason="CMake was not found")


def program(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def fake_nvcc(path, release):
    return program(path, f"echo 'Cuda compilation tools, release {release}, V{release}.88'")


@pytest.fixture
def wheels(tmp_path):
    """The folder nvidia/cu13 of pip's wheels, in the folder "site"."""
    folder = tmp_path / "site" / "nvidia" / "cu13"
    for name in WHEEL_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    fake_nvcc(folder / "bin" / "nvcc", "13.0")
    return folder


@pytest.fixture
def find(tmp_path):
    """Returns a function that runs CMake for a DLRM_NVCC and a driver's version."""

    def run(choice="", driver="", **variables):
        smi = program(tmp_path / "nvidia-smi", f"echo '{driver}'")
        script = tmp_path / "find.cmake"
        script.write_text(
            "cmake_minimum_required(VERSION 3.18)\n"
            f"include({ROOT}/ops/cuda_toolkit.cmake)\n"
            f'dlrm_find_nvcc("{tmp_path}/site" nvcc)\n'
            'message("found ${nvcc}")\n'
        )
        return subprocess.run(
            [CMAKE, f"-DDLRM_NVCC={choice}", f"-DDLRM_NVIDIA_SMI={smi}", "-P", script],
            capture_output=True, text=True, check=False, cwd=tmp_path,
            env={"PATH": os.environ["PATH"], **variables},
        )  # fmt: skip

    return run


def test_nvcc_of_the_choice_precedes_others(find, wheels, tmp_path):
    chosen = fake_nvcc(tmp_path / "chosen" / "nvcc", "12.4")
    home = fake_nvcc(tmp_path / "home" / "bin" / "nvcc", "13.0")
    variables = {"CUDA_HOME": str(home.parents[1])}
    assert find(chosen, **variables).stderr == f"found {chosen}\n"
    assert find(**variables).stderr == f"found {home}\n"
    done = find("pip", **variables)
    assert done.stderr == f"found {tmp_path}/cuda_toolkit/bin/nvcc\n"


def test_wheels_get_the_layout_of_a_toolkit(find, wheels, tmp_path):
    assert find("pip").returncode == 0
    toolkit = tmp_path / "cuda_toolkit"
    for name in WHEEL_FILES:
        link = toolkit / name.replace("lib/", "lib64/")
        assert link.resolve() == (wheels / name).resolve()
    # The linker's name.
    assert (toolkit / "lib64/libcudart.so").resolve() == wheels / "lib/libcudart.so.13"


@pytest.mark.parametrize("missing", WHEEL_FILES)
def test_incomplete_wheels_are_one_line(find, wheels, missing):
    (wheels / missing).unlink()
    done = find("pip")
    assert done.returncode != 0
    (line,) = (line for line in done.stderr.splitlines() if "expected" in line or "lacks" in line)
    assert "pip install --group nvcc" in line


def test_missing_nvcc_of_the_choice_is_one_line(find):
    done = find("/nowhere/nvcc")
    assert done.returncode != 0
    assert " DLRM_NVCC=/nowhere/nvcc: expected pip or the path of nvcc" in done.stderr


@pytest.mark.parametrize(
    ("release", "driver", "oldest"),
    [
        ("13.0", "580.65.06", None),
        ("13.2", "580.65.05", "580.65.06"),
        ("12.4", "525.60.13", None),
        ("12.8", "525.9.99", "525.60.13"),
        ("13.0", "", None),
        ("11.8", "450.1", None),
    ],
)
def test_old_driver_is_one_line_for_users(find, tmp_path, release, driver, oldest):
    nvcc = fake_nvcc(tmp_path / "nvcc", release)
    done = find(nvcc, driver)
    assert done.returncode == 0
    *lines, found = done.stderr.splitlines()
    assert found == f"found {nvcc}" and len(lines) == (1 if oldest else 0)
    for line in lines:
        assert line.startswith("ops: the CUDA kernels do not run on this host: ")
        assert f"driver {oldest} or later, found {driver}" in line


def test_build_without_nvcc_is_one_line_for_users(tmp_path):
    # A Python whose TensorFlow has CUDA, in an environment without wheels.
    facts = "echo -I/nowhere; echo -L/nowhere; echo 2.99; echo ON"
    python = program(
        tmp_path / "python", f"case $2 in *tensorflow*) {facts} ;; *) echo {tmp_path}/site ;; esac"
    )
    folders = {"/usr/local/cuda/bin", *TOOLS.split(os.pathsep)}
    hidden = ";".join(folder for folder in folders if os.path.exists(f"{folder}/nvcc"))
    done = subprocess.run(
        [CMAKE, "-S", ROOT / "ops", "-B", tmp_path / "build", f"-DDLRM_PYTHON={python}",
         f"-DCMAKE_IGNORE_PATH={hidden}"],
        capture_output=True, text=True, check=False, env={"PATH": TOOLS},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("ops: "))
    for word in ("TensorFlow 2.99 has CUDA", "CPUs only", f"{python} -m pip install --group nvcc"):
        assert word in line


@pytest.mark.parametrize("status", [0, 1])
def test_make_prints_the_lines_for_users(tmp_path, status):
    python = program(
        tmp_path / "env" / "bin" / "python",
        f"echo '-- Configuring'; echo 'ops: one' >&2; echo ' ops: two'; exit {status}",
    )
    shutil.copytree(ROOT / "locks", tmp_path / "locks")
    for name in ("bootstrap.sh", "setup.py", "ops/CMakeLists.txt", "env/.ready"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    done = subprocess.run(
        ["make", "-f", ROOT / "Makefile", f"VENV={python.parents[1]}", "OPS=ops/new.so", "ops"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    if status:
        assert done.returncode != 0 and "ops: one" in done.stderr
        assert "the op library did not build; see build/ops.log" in done.stderr
        assert not (tmp_path / "ops/new.so").exists()
    else:
        assert done.stdout.splitlines()[-2:] == ["building ops/new.so", "ops: one"], done.stderr
        assert (tmp_path / "ops/new.so").exists()
