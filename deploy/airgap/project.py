"""Copies the project into a bundle and builds its ops for the bundle's TensorFlow."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence

from deploy.airgap import BundleError, elf, interpreter

ROOT = pathlib.Path(__file__).resolve().parents[2]

_COMPILER_FILE = "CMakeFiles/*/CMakeCUDACompiler.cmake"
# {CUDA major version: oldest Linux driver}, from NVIDIA's table.
_DRIVERS = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}


def files() -> list[str]:
    """Returns the paths of the working tree's files, except those that Git ignores, sorted.

    Raises:
        BundleError: this is not a Git checkout.
    """
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise BundleError(f"git ls-files in {ROOT}: {done.stderr.decode().strip()}", path=ROOT)
    names = sorted(filter(None, done.stdout.decode().split("\0")))
    # Links point out of the checkout, to environments and data.
    return [name for name in names if (ROOT / name).is_file() and not (ROOT / name).is_symlink()]


def copy(target: pathlib.Path) -> None:
    """Copies the files of `files`.

    Raises:
        BundleError: this is not a Git checkout.
    """
    for name in files():
        copied = pathlib.Path(target) / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copied)


def build_ops(
    project: pathlib.Path,
    python: pathlib.Path,
    onednn: pathlib.Path | None,
    architectures: Sequence[int],
    log: pathlib.Path,
) -> list[pathlib.Path]:
    """Builds the op libraries in a copy of the project.

    Args:
        project: the copy.
        python: path of an interpreter with the bundle's TensorFlow and its headers.
        onednn: prefix of oneDNN's headers and library, or None.
        architectures: GPU generations, such as 90 for sm_90; empty for all.
        log: file for the build's output.

    Returns:
        The paths of the libraries.

    Raises:
        BundleError: the build failed, or built no CUDA kernels.
    """
    # Build tools come from the running environment; the bundle has none.
    tools = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    tree, source = log.parent / "ops", project / "ops"
    configure = ["cmake", "-S", source, "-B", tree, "-G", "Ninja", f"-DDLRM_PYTHON={python}"]
    configure.append(f"-DDLRM_CUDA_ARCHITECTURES={';'.join(map(str, architectures)) or 'all'}")
    if onednn is not None:
        configure.append(f"-DDLRM_ONEDNN={onednn}")
    commands = [configure, ["cmake", "--build", tree, "--parallel", os.cpu_count() or 1]]
    with open(log, "w") as file:
        for command in commands:
            done = subprocess.run(
                list(map(str, command)), stdout=file, stderr=subprocess.STDOUT, check=False,
                env={**os.environ, "PATH": tools},
            )  # fmt: skip
            if done.returncode != 0:
                raise BundleError(f"the ops did not build; see {log}", path=log)
    libraries = []
    for built in sorted([*tree.glob("libdlrm_*-tf*.so"), tree / "libdlrm_preprocessing.so"]):
        shutil.copy2(built, source / built.name)
        libraries.append(source / built.name)
    ops = next((path for path in libraries if path.name.startswith("libdlrm_ops")), None)
    if ops is None or b".nv_fatbin" not in ops.read_bytes():
        raise BundleError(f"the op library has no CUDA kernels; is nvcc on PATH? See {log}")
    check_cuda_runtime_is_hidden(ops)
    return libraries


def check_cuda_runtime_is_hidden(library: pathlib.Path) -> None:
    """Checks that a library exports and imports no function of the CUDA runtime.

    TensorFlow exports functions of the same names from its own runtime. If ours were visible, the
    loader would bind our calls to TensorFlow's and register our kernels with the wrong runtime.

    Raises:
        BundleError: a function of the CUDA runtime is visible; the message names it.
    """
    done = subprocess.run(
        ["nm", "--dynamic", str(library)], capture_output=True, text=True, check=True
    )
    names = (line.split()[-1] for line in done.stdout.splitlines())
    visible = sorted(n for n in names if re.match(r"(__cuda[A-Z]|cuda[A-Z])", n))
    if visible:
        raise BundleError(
            f"{library}: expected no visible functions of the CUDA runtime, found {len(visible)}, "
            f"such as {visible[0]}: the loader would use TensorFlow's instead",
            path=library, found=visible,
        )  # fmt: skip


def relocate(
    libraries: Sequence[pathlib.Path], bundle: pathlib.Path, patchelf: pathlib.Path
) -> None:
    """Sets run paths so that op libraries find oneDNN and OpenMP in the bundle.

    Raises:
        BundleError: OpenMP's library is not on this machine.
    """
    lib = bundle / "python" / "lib"
    for path in libraries:
        relative = os.path.relpath(lib, path.parent)
        interpreter.set_run_path(patchelf, path, f"$ORIGIN/{relative}")
        if "libgomp.so.1" in elf.needed(elf.headers([path])[path]):
            origin = elf.loaded_libraries(path).get("libgomp.so.1")
            if origin is None:
                raise BundleError(f"{path} needs libgomp.so.1, which was not found", path=path)
            if not (lib / "libgomp.so.1").exists():
                shutil.copy2(os.path.realpath(origin), lib / "libgomp.so.1")
                interpreter.set_run_path(patchelf, lib / "libgomp.so.1", "$ORIGIN")
    for path in lib.glob("libdnnl.so*"):
        if not path.is_symlink():
            interpreter.set_run_path(patchelf, path, "$ORIGIN")


def required_driver(build_tree: pathlib.Path) -> str:
    """Returns the oldest NVIDIA driver that runs the kernels in CMake's build folder.

    Raises:
        BundleError: the build folder does not name a known CUDA version.
    """
    text = "".join(p.read_text() for p in build_tree.glob(_COMPILER_FILE))
    found = re.search(r'set\(CMAKE_CUDA_COMPILER_VERSION "(\d+)\.', text)
    if found is None or found[1] not in _DRIVERS:
        version = found and found[1]
        problem = f"{_COMPILER_FILE}: expected CUDA {', '.join(_DRIVERS)}, found {version}"
        raise BundleError.of_path(build_tree, problem, expected=list(_DRIVERS), found=version)
    return _DRIVERS[found[1]]
