"""Compilation of the CUDA kernels with nvcc.

`python3 -m tests.gpu.run` runs and times the kernels on a GPU host.
"""

import os
import subprocess

import pytest

from tests.gpu import build

# The one with a code path of its own. The others are slow tests.
ALWAYS = ("90",)
ARCHITECTURES = [
    pytest.param(a, marks=[] if a in ALWAYS else pytest.mark.slow) for a in build.generations()
]

needs_nvcc = pytest.mark.skipif(
    build.nvcc() is None, reason="nvcc was not found: the CUDA kernels are not compiled"
)


def compiled(architecture):
    """Returns (object files, resource report), with PTX if it is tested or in the op library."""
    with_ptx = architecture in ("90", build.generations()[-1])
    return build.compile_objects(architecture, jobs=2, ptx=with_ptx)


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile_without_warnings_and_spills(architecture):
    objects, report = compiled(architecture)
    assert len(objects) == len(build.sources()) > 0
    resources = build.kernel_resources(report)
    assert any("forward_kernel" in name for name in resources), "nvcc's report was not understood"
    assert build.spilled_kernels(report) == []


@needs_nvcc
def test_ptx_has_tensor_core_and_wide_memory_instructions():
    objects, _ = compiled("90")
    code = b"".join(path.read_bytes() for path in objects)
    for instruction in (
        b"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
        b"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
        b"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
        b"ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16",
        b"cp.async.cg.shared.global",
        b"red.global.add.v4.f32",
        b"ld.global.nc.v4.f32",
    ):
        assert instruction in code


@pytest.mark.slow
@pytest.mark.parametrize("source", sorted(build.OPS.glob("*/*gpu.cc")), ids=lambda path: path.name)
def test_tensorflow_gpu_kernels_compile(source):
    """TensorFlow's headers are the same for CPUs and GPUs; CUDA's come with nvcc."""
    include = build.cuda_include()
    if include is None:
        pytest.skip("CUDA's headers were not found: the GPU kernels are not compiled")
    import tensorflow as tf

    flags = [f for f in tf.sysconfig.get_compile_flags() if not f.startswith(("-std", "-I"))]
    command = [
        os.environ.get("CXX", "g++"), "-fsyntax-only", "-std=c++17", "-Wall", "-Wextra",
        "-Wno-unused-parameter", "-Werror", "-DGOOGLE_CUDA=1", *flags, f"-I{build.OPS}",
        "-isystem", tf.sysconfig.get_include(), "-isystem", str(include), str(source),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
