"""Builds the native libraries; takes the package's extras from pyproject.toml's groups.

``python3 setup.py build_ext --inplace`` compiles ``ops/`` with CMake against the TensorFlow of the
running interpreter and writes ``ops/libdlrm_ops-tf<version>.so`` and
``ops/libdlrm_preprocessing.so``, which needs no TensorFlow.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

ROOT = pathlib.Path(__file__).resolve().parent
#: Environment variables that are passed to ops/CMakeLists.txt.
_SWITCHES = ("DLRM_SANITIZE", "DLRM_CUDA_ARCHITECTURES", "DLRM_NVCC")


class BuildOps(build_ext):
    """Builds with CMake, in one build tree per TensorFlow version."""

    def run(self) -> None:
        """Configures and builds ``ops/``, then copies the libraries into ops/."""
        # The environment's cmake and ninja come first: their versions are pinned.
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
        cmake = shutil.which("cmake", path=path)
        if cmake is None:
            sys.exit("setup.py: cmake was not found in PATH; install it, e.g. with `make venv`")
        tree = ROOT / "build" / f"ops-tf{self._tensorflow_version()}"
        tree.mkdir(parents=True, exist_ok=True)
        configure = [
            cmake, "-S", str(ROOT / "ops"), "-B", str(tree), f"-DDLRM_PYTHON={sys.executable}",
            *(f"-D{name}={os.environ.get(name, '')}" for name in _SWITCHES),
        ]  # fmt: skip
        if shutil.which("ninja", path=path) and not (tree / "CMakeCache.txt").exists():
            configure += ["-G", "Ninja"]
        environment = {**os.environ, "PATH": path}
        jobs = str(self.parallel or os.cpu_count() or 1)
        for command in (configure, [cmake, "--build", str(tree), "--parallel", jobs]):
            if subprocess.run(command, check=False, env=environment).returncode != 0:
                sys.exit(f"setup.py: the build in {tree} failed; see CMake's output above")
        target = ROOT if self.inplace else pathlib.Path(self.build_lib).resolve()
        for library in (*tree.glob("libdlrm_*-tf*.so"), tree / "libdlrm_preprocessing.so"):
            (target / "ops").mkdir(parents=True, exist_ok=True)
            # Copied and renamed, so that a running job keeps the file that it has mapped.
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
        sys.exit("setup.py: the build needs TensorFlow, which is not installed; try `make venv`")


def _groups():
    """Returns {name: requirements} of pyproject.toml's dependency groups without includes."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    return {n: g for n, g in groups.items() if all(isinstance(line, str) for line in g)}


_EXTRAS = _groups()
setup(
    install_requires=_EXTRAS.pop("run"),
    extras_require=_EXTRAS,
    ext_modules=[Extension("dlrm_ops", sources=[])],
    cmdclass={"build_ext": BuildOps},
)
