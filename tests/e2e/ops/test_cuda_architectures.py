"""GPU architectures of the build, with fake nvcc and nvidia-smi."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

OPS = ROOT / "ops"
TOOLS = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
CMAKE = shutil.which("cmake", path=TOOLS)
# Output of nvcc --list-gpu-arch.
NVCC_12 = (70, 75, 80, 86, 87, 89, 90)
NVCC_13 = (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121)

pytestmark = pytest.mark.skipif(CMAKE is None, reason="CMake was not found")


def program(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def choose(tmp_path):
    """Returns a function that runs CMake for (choice, nvcc's architectures, nvidia-smi script)."""

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


ALL_OF_12, ALL_OF_13 = "80-real;86-real;89-real;90", "80-real;86-real;89-real;90-real;100-real;120"


@pytest.mark.parametrize(
    ("choice", "gpus", "known", "chosen"),
    [
        ("", None, NVCC_13, ALL_OF_13),
        ("all", None, NVCC_13, ALL_OF_13),
        ("all", None, NVCC_12, ALL_OF_12),
        ("80 90", None, NVCC_12, "80-real;90"),
        ("120, 80", None, NVCC_13, "80-real;120"),
        ("90;90", None, NVCC_13, "90"),
        ("87", None, NVCC_12, "87"),
        ("", r"9.0\n9.0\n", NVCC_13, "90"),
        ("", r"8.0\n9.0\n", NVCC_13, "80-real;90"),
        ("", r"10.3\n", NVCC_13, "103"),
        # A GPU newer than nvcc: PTX of the newest earlier architecture.
        ("", r"12.0\n", NVCC_12, "90"),
        # Unsupported GPUs are ignored.
        ("", r"7.0\n8.6\n", NVCC_13, "86"),
        ("", r"7.0\n", NVCC_12, ALL_OF_12),
        ("", r"[N/A]\n", NVCC_12, ALL_OF_12),
    ],
)
def test_architectures_by_choice_and_gpus_of_the_host(choose, choice, gpus, known, chosen):
    done = choose(choice, known, "exit 9" if gpus is None else f"printf '{gpus}'")
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == ["chosen", chosen]


@pytest.mark.parametrize(
    ("choice", "known", "facts"),
    [
        ("75", NVCC_13, ("80 86 89 90 100 120", " 75")),
        ("sm_90", NVCC_13, ("80 86 89 90 100 120", "sm_90")),
        ("100", NVCC_12, ("80 86 89 90 (", " 100")),
        ("native", NVCC_13, ("80", "nvidia-smi", "''")),
    ],
)
def test_impossible_choice_is_one_line(choose, choice, known, facts):
    done = choose(choice, known)
    assert done.returncode != 0
    (line,) = (line for line in done.stderr.splitlines() if "DLRM_CUDA_ARCHITECTURES=" in line)
    assert line.strip().startswith(f"DLRM_CUDA_ARCHITECTURES={choice}: ")
    assert all(fact in line for fact in facts)


def test_nvcc_without_architectures_is_an_error(choose):
    done = choose("all", known=())
    assert done.returncode != 0
    assert "nvcc --list-gpu-arch" in done.stderr
