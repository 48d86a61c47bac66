"""Builds the op library of the emulated GPU.

It has the project's GPU kernels as kernels of TensorFlow's CPU device: the TensorFlow part
(`ops/*/*_gpu.cc`) is compiled with `cpu_device.h`, and the CUDA kernels run on the CPU
(`tests/gpu/host`). Loaded after the op library, its kernels are preferred to the CPU's. Memory and
streams are not emulated: uploads keep their CPU kernels.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import tensorflow as tf

from tests.gpu import build

_FOLDER = pathlib.Path(__file__).parent
_HEADER = _FOLDER / "cpu_device.h"
#: Sources of ops/ that the GPU kernels share with CPU kernels.
_SHARED = ("cpu/huge_pages.cc", "embedding/embedding_portable.cc", "embedding/embedding_tables.cc")


def _sources() -> list[pathlib.Path]:
    gpu = [file for file in build.OPS.glob("*/*_gpu.cc") if file.parent.name != "upload"]
    return [
        *sorted(gpu), build.OPS / "upload" / "scalars_gpu.cc", *(build.OPS / n for n in _SHARED),
        _FOLDER / "cuda_runtime.cc",
    ]  # fmt: skip


def run_worker(name: str, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess:
    """Runs a module of this folder, with memory as on a GPU; returns the CompletedProcess.

    Raises:
        BuildError: the compiler failed.
    """
    return subprocess.run(
        [sys.executable, "-m", f"tests.support.emulated_ops.{name}", *arguments], cwd=build.ROOT,
        env={**os.environ, "LD_PRELOAD": str(_build_preloaded())}, text=True, capture_output=True,
        timeout=timeout, check=False,
    )  # fmt: skip


def _build_preloaded() -> pathlib.Path:
    """Returns the library that aligns memory, for LD_PRELOAD."""
    source = _FOLDER / "device_alignment.cc"
    command = [os.environ.get("CXX", "g++"), "-std=c++17", "-O1", "-fPIC", "-Wall", "-Werror",
               "-shared", source, "-ldl"]  # fmt: skip
    target = build.CACHE / f"libdlrm_device_alignment-{build._digest([source], command[:7])}.so"
    return build.build_once(target, lambda path: build._run([*command, "-o", path], 60))


def build_library() -> pathlib.Path:
    """Returns the path of the library, for the running TensorFlow.

    Raises:
        BuildError: the compiler failed.
    """
    kernels = build.build_emulation()
    compiler = os.environ.get("CXX", "g++")
    includes = [f"-I{build.OPS}", "-isystem", str(build.cuda_include())]
    options = []
    for flag in tf.sysconfig.get_compile_flags():
        options += ["-isystem", flag[2:]] if flag.startswith("-I") else [flag]
    flags = [
        "-std=c++17", "-O1", "-fPIC", "-pipe", "-Wall", "-Werror", "-fvisibility=hidden",
        "-ffp-contract=off", *includes, *options,
    ]  # fmt: skip
    # TensorFlow's functions are found in the process that loads the library.
    link = [f"-Wl,-rpath,{kernels.parent}", *tf.sysconfig.get_link_flags(), "-Wl,-z,defs"]
    files = [*_sources(), _HEADER, *build.OPS.glob("*.h"), *build.OPS.glob("*/*.h")]
    digest = build._digest(files, [compiler, *flags[:8], kernels.name, tf.__version__])

    def make(path):
        with tempfile.TemporaryDirectory() as folder:
            # Precompiled: parsing TensorFlow's headers takes most of the time.
            header = shutil.copy(_HEADER, folder)
            build._run([compiler, *flags, "-x", "c++-header", header, "-o", f"{header}.gch"], 300)

            def compiled(source):
                target = pathlib.Path(folder) / f"{source.stem}.o"
                first = ["-include", header] if source.stem.endswith("_gpu") else []
                build._run([compiler, *flags, *first, "-c", source, "-o", target], 300)
                return target

            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = list(pool.map(compiled, _sources()))
            build._run([compiler, "-shared", "-o", path, *objects, kernels, *link], 60)

    return build.build_once(build.CACHE / f"libdlrm_emulated_ops-{digest}.so", make)
