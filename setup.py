"""Builds the native op library, and makes the package's extras of pyproject.toml's groups.

``python3 setup.py build_ext --inplace`` compiles ``ops/`` with CMake against the TensorFlow that
the running interpreter has, and leaves ``ops/libdlrm_ops-tf<version>.so`` beside the sources, and
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
#: Environment variables that ops/CMakeLists.txt takes as they are.
_SWITCHES = ("DLRM_SANITIZE", "DLRM_CUDA_ARCHITECTURES")


class BuildOps(build_ext):
    """Hands the build to CMake; one build tree for each TensorFlow version."""

    def run(self) -> None:
        """Configures and builds ``ops/``, then copies the library to where it is loaded from."""
        # The environment's own cmake and ninja come first: they are pinned, the system's are not.
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
        cmake = shutil.which("cmake", path=path)
        if cmake is None:
            sys.exit("setup.py: cmake was not found; install it (make does)")
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
                sys.exit("setup.py: CMake built no op library; what it printed above says why")
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


def _groups():
    """Returns {name: requirements} of pyproject.toml's dependency groups that include no other."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    return {n: g for n, g in groups.items() if all(isinstance(line, str) for line in g)}


_EXTRAS = _groups()
setup(
    install_requires=_EXTRAS.pop("run"),
    extras_require=_EXTRAS,
    ext_modules=[Extension("dlrm_ops", sources=[])],
    cmdclass={"build_ext": BuildOps},
)
