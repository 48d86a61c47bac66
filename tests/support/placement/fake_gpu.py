"""Runs Python with TensorFlow's GPU wheel on a GPU that is not there (`fake_cuda`).

TensorFlow places, partitions and executes graphs as on a real GPU of compute capability 9.0, and
copies between host and device are recorded. Kernels do nothing, so values mean nothing.
"""

from __future__ import annotations

import os
import pathlib
import subprocess

from tests.support.paths import ROOT

#: The library that stands for all of CUDA.
LIBRARY = "libfake_cuda.so"
_SOURCES = pathlib.Path(__file__).with_name("fake_cuda")
_HEADERS = ("cuda_runtime", "cuda_nvcc")
# TensorFlow registers a GPU only if all of these load.
_NAMES = (
    "libcuda.so.1", "libnvidia-ml.so.1", "libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12",
    "libcudnn.so.9", "libcufft.so.11", "libcusolver.so.11", "libcusparse.so.12",
)  # fmt: skip


class FakeGpuError(RuntimeError):
    """The environment or this tree lacks something that the fake GPU needs."""


class FakeGpu:
    """Programs that run on the fake GPU, with the project's ops.

    Args:
        environment: a Python environment with TensorFlow's GPU wheel and its CUDA libraries, for
            which the op library was built with CUDA in this tree.
        folder: an empty folder for the libraries.

    Raises:
        FakeGpuError: something is missing or does not compile.
    """

    def __init__(self, environment: pathlib.Path, folder: pathlib.Path) -> None:
        self._python = environment.absolute() / "bin" / "python"
        self._folder = folder
        packages = sorted(environment.absolute().glob("lib/python3*/site-packages"))
        if not packages or not (packages[0] / "nvidia" / "cuda_runtime" / "include").exists():
            raise FakeGpuError(
                f"{environment}: expected CUDA's headers of pip's wheels, found none"
            )
        self._site_packages = packages[0]
        self._build_cuda()
        self._link_ops()

    def _build_cuda(self):
        headers = [self._site_packages / "nvidia" / name / "include" for name in _HEADERS]
        _compile(
            "gcc", "-shared", "-fPIC", "-O1", "-fvisibility=hidden",
            *(f"-I{folder}" for folder in headers), *sorted(_SOURCES.glob("*.c")),
            "-o", self._folder / LIBRARY, "-pthread", "-ldl",
        )  # fmt: skip
        for name in _NAMES:
            (self._folder / name).symlink_to(LIBRARY)

    def _link_ops(self):
        """Links the objects of the op library again, without their own CUDA runtime.

        They use the fake runtime instead: NVIDIA's needs NVIDIA's driver.
        """
        (information,) = self._site_packages.glob("tensorflow-*.dist-info")
        version = information.stem.removeprefix("tensorflow-")
        tree = ROOT / "build" / f"ops-tf{version}" / "CMakeFiles"
        kernels = sorted(tree.glob("dlrm_cuda_objects.dir/**/*.o"))
        if not kernels:
            raise FakeGpuError(f"expected CUDA objects in {tree}, found none; run make ops")
        name = f"libdlrm_ops-tf{'.'.join(version.split('.')[:2])}.so"
        _compile(
            "g++", "-shared", "-o", self._folder / name, *kernels,
            *sorted(tree.glob("dlrm_ops.dir/**/*.o")), f"-L{self._site_packages / 'tensorflow'}",
            "-l:libtensorflow_framework.so.2", "-ldl",
        )  # fmt: skip

    def run(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess:
        """Runs Python with `arguments`; returns the CompletedProcess."""
        library = str(self._folder / LIBRARY)
        environment = {
            **os.environ,
            "PATH": f"{self._python.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "LD_PRELOAD": library,
            "LD_LIBRARY_PATH": str(self._folder),
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            # Autotuning compares kernels' results, and a CUDA graph would hide its launches.
            "XLA_FLAGS": "--xla_gpu_autotune_level=0 --xla_gpu_enable_command_buffer=",
        }
        return subprocess.run(
            [str(self._python), *arguments], cwd=ROOT, env=environment, text=True,
            capture_output=True, timeout=timeout, check=False,
        )  # fmt: skip


def _compile(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FakeGpuError(f"{command[0]} failed: {done.stderr[-2000:]}")
