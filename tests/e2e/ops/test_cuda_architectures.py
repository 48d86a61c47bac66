"""The choice of GPUs that the op library is built for, with stand-ins for nvcc and nvidia-smi."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

OPS = ROOT / "ops"
TOOLS = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
CMAKE = shutil.which("cmake", path=TOOLS)
# What --list-gpu-arch names.
NVCC_12 = (70, 75, 80, 86, 87, 89, 90)
NVCC_13 = (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121)

pytestmark = pytest.mark.skipif(CMAKE is None, reason="CMake was not found")


def program(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def choose(tmp_path):
    """Returns a function (choice, nvcc's architectures, nvidia-smi's script): CMake's process."""

    def run(choice, known=NVCC_13, smi="exit 9"):
        names = "\\n".join(f"compute_{number}" for number in known)
        nvcc = program(tmp_path / "nvcc", f"printf '{names}\\n'")
        smi = program(tmp_path / "nvidia-smi", smi)
        script = tmp_path / "choose.cmake"
        script.write_text(
            "cmake_minimum_required(VERSION 3.18)\n"
            f"include({OPS}/cuda_architectures.cmake)\n"
            'dlrm_cuda_architectures("${NVCC}" "${CHOICE}" chosen)\n'
            'message("chosen ${chosen}")\n'
        )
        return subprocess.run(
            [CMAKE, f"-DNVCC={nvcc}", f"-DCHOICE={choice}", f"-DDLRM_NVIDIA_SMI={smi}",
             "-P", script],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    ("choice", "known", "chosen"),
    [
        ("", NVCC_13, "80-real;86-real;89-real;90-real;100-real;120"),
        ("all", NVCC_13, "80-real;86-real;89-real;90-real;100-real;120"),
        ("all", NVCC_12, "80-real;86-real;89-real;90"),
        ("80 90", NVCC_12, "80-real;90"),
        ("120, 80", NVCC_13, "80-real;120"),
        ("90;90", NVCC_13, "90"),
        ("87", NVCC_12, "87"),
    ],
)
def test_choice_without_a_gpu(choose, choice, known, chosen):
    done = choose(choice, known)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == ["chosen", chosen]


@pytest.mark.parametrize(
    ("listed", "known", "chosen"),
    [
        (r"9.0\n9.0\n", NVCC_13, "90"),
        (r"8.0\n9.0\n", NVCC_13, "80-real;90"),
        (r"10.3\n", NVCC_13, "103"),
        # nvcc does not know the GPU: PTX of the newest before it.
        (r"12.0\n", NVCC_12, "90"),
        # The kernels do not run on one of the GPUs, or on any.
        (r"7.0\n8.6\n", NVCC_13, "86"),
        (r"7.0\n", NVCC_12, "80-real;86-real;89-real;90"),
        ("[N/A]\\n", NVCC_12, "80-real;86-real;89-real;90"),
    ],
)
def test_choice_by_the_hosts_gpus(choose, listed, known, chosen):
    done = choose("", known, f"printf '{listed}'")
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == ["chosen", chosen]


@pytest.mark.parametrize(
    ("choice", "known", "message"),
    [
        ("75", NVCC_13, "expected native, all or some of 80 86 89 90 100 120"),
        ("sm_90", NVCC_13, "found sm_90"),
        ("100", NVCC_12, "expected native, all or some of 80 86 89 90 (or another from 80"),
        ("native", NVCC_13, "lists no GPU of 80 or later here, found ''"),
    ],
)
def test_impossible_choice_is_one_line(choose, choice, known, message):
    done = choose(choice, known)
    assert done.returncode != 0
    (line,) = (line for line in done.stderr.splitlines() if "DLRM_CUDA_ARCHITECTURES=" in line)
    assert line.strip().startswith(f"DLRM_CUDA_ARCHITECTURES={choice}: ")
    assert message in line


def test_nvcc_that_lists_nothing_is_named(choose):
    done = choose("all", known=())
    assert done.returncode != 0
    assert "nvcc --list-gpu-arch: expected a list of architectures, found" in done.stderr
