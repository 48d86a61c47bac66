"""The order of kernels on the side stream and of the reuse of memory, on an emulated CUDA."""

import os
import subprocess

import pytest

from tests.gpu import build

NATIVE = build.ROOT / "tests" / "native"
# Numbers of `emulated_cuda::Omit` and, in the test program, of `Release`.
OMISSIONS = {
    "waits of the compute stream": (2, 0),
    "waits of the side stream": (3, 0),
    "records after the first op": (5, 0),
    "records of the side stream": (6, 0),
    "held inputs": (0, 1),
    "held outputs": (0, 2),
    "held workspaces": (0, 3),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Returns the path of the compiled test program."""
    include = build.cuda_include()
    if include is None:
        pytest.skip("CUDA's headers were not found: the side stream is not run")
    target = tmp_path_factory.mktemp("side_stream") / "side_stream_test"
    command = [
        os.environ.get("CXX", "g++"), "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror",
        "-pthread", f"-I{build.OPS}", "-isystem", include, "-o", target,
        NATIVE / "side_stream_test.cc", NATIVE / "emulated_cuda.cc",
        build.OPS / "side_stream" / "side_stream_gpu.cc",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run(program, seed, omission=(0, 0)):
    """Returns the finished program and its number of kernels that read wrong bytes."""
    done = subprocess.run(
        [program, str(seed), *map(str, omission)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    words = done.stdout.split()
    assert words[1:2] == ["kernels,"], done.stdout + done.stderr
    return done, int(words[2])


def test_kernels_read_what_was_written_for_them_in_any_order(program, seed):
    done, wrong = run(program, seed)
    assert (done.returncode, wrong) == (0, 0), done.stdout


@pytest.mark.parametrize("omission", OMISSIONS)
def test_kernels_read_wrong_bytes_without(program, omission, seed):
    """Shows that each wait and each reference is needed, and that this test detects its absence."""
    done, wrong = run(program, seed, OMISSIONS[omission])
    assert done.returncode == 1 and wrong > 0
