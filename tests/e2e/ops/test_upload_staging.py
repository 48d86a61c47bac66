"""The order of copies and kernels in GPU uploads, on an emulated CUDA runtime."""

import os
import subprocess

import pytest

from tests.gpu import build

NATIVE = build.ROOT / "tests" / "native"
# Numbers of `emulated_cuda::Omit`.
OMISSIONS = {
    "waits of the host": 1,
    "waits of the compute stream": 2,
    "waits of the copy stream": 3,
    "records after allocation": 4,
    "records after the last kernel": 5,
}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Returns the path of the compiled test program."""
    include = build.cuda_include()
    if include is None:
        pytest.skip("CUDA's headers were not found: the GPU part of uploads is not run")
    target = tmp_path_factory.mktemp("staging") / "staging_slots_test"
    command = [
        os.environ.get("CXX", "g++"), "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror",
        "-pthread", f"-I{build.OPS}", "-isystem", include, "-o", target,
        NATIVE / "staging_slots_test.cc", NATIVE / "emulated_cuda.cc",
        build.OPS / "upload" / "staging_slots_gpu.cc",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run(program, seed, omission=0):
    """Returns the finished program and its number of kernels that read wrong bytes."""
    done = subprocess.run(
        [program, str(seed), str(omission)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    words = done.stdout.split()
    assert words[1:2] == ["kernels,"], done.stdout + done.stderr
    return done, int(words[2])


def test_kernels_read_their_batch_whatever_the_order_of_copies(program, seed):
    done, wrong = run(program, seed)
    assert (done.returncode, wrong) == (0, 0), done.stdout


@pytest.mark.parametrize("omission", OMISSIONS)
def test_kernels_read_wrong_bytes_without(program, omission, seed):
    """Shows that each wait is needed, and that this test would detect its absence."""
    done, wrong = run(program, seed, OMISSIONS[omission])
    assert done.returncode == 1 and wrong > 0
