"""The project's part of a bundle: its files, and its ops built for the bundle's TensorFlow."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence

from deploy.airgap import elf, interpreter

ROOT = pathlib.Path(__file__).resolve().parents[2]

_COMPILER_NOTE = "CMakeFiles/*/CMakeCUDACompiler.cmake"
# The oldest Linux driver for each CUDA release, from NVIDIA's table.
_DRIVERS = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}


def copy(target: pathlib.Path) -> None:
    """Copies the files that Git knows or would add, as they are in the working tree.

    Raises:
        RuntimeError: this is no Git checkout.
    """
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"git ls-files in {ROOT}: {done.stderr.decode().strip()}")
    for name in sorted(filter(None, done.stdout.decode().split("\0"))):
        source, copied = ROOT / name, pathlib.Path(target) / name
        # Links lead out of the checkout: an environment, a data folder.
        if source.is_file() and not source.is_symlink():
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copied)


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
        python: path of an interpreter that has the bundle's TensorFlow, with headers.
        onednn: prefix where oneDNN's headers and library are, or None.
        architectures: GPUs to build for, 90 for sm_90; none: all that nvcc and the kernels know.
        log: file for what the build prints.

    Returns:
        paths of the libraries.

    Raises:
        RuntimeError: the build failed, or built no CUDA kernels.
    """
    # The tools are this environment's; the bundle has none.
    tools = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    tree = pathlib.Path(log).parent / "ops"
    source = pathlib.Path(project) / "ops"
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
                raise RuntimeError(f"the ops did not build; the whole log is {log}")
    libraries = []
    for built in sorted([*tree.glob("libdlrm_*-tf*.so"), tree / "libdlrm_preprocessing.so"]):
        shutil.copy2(built, source / built.name)
        libraries.append(source / built.name)
    ops = next((path for path in libraries if path.name.startswith("libdlrm_ops")), None)
    if ops is None or b".nv_fatbin" not in ops.read_bytes():
        raise RuntimeError(f"the op library has no CUDA kernels (is nvcc there?); see {log}")
    check_cuda_is_its_own(ops)
    return libraries


def check_cuda_is_its_own(library: pathlib.Path) -> None:
    """Checks that a library calls the CUDA runtime that is linked into it.

    TensorFlow exports functions of the same names, for the runtime that it was built with. Were
    ours visible, the loader would bind our calls to TensorFlow's, and kernels compiled for one
    runtime would be registered with another.

    Raises:
        RuntimeError: a function of the CUDA runtime is visible; the message names it.
    """
    done = subprocess.run(
        ["nm", "--dynamic", str(library)], capture_output=True, text=True, check=True
    )
    names = (line.split()[-1] for line in done.stdout.splitlines())
    visible = sorted(n for n in names if re.match(r"(__cuda[A-Z]|cuda[A-Z])", n))
    if visible:
        raise RuntimeError(
            f"{library} shows {len(visible)} functions of the CUDA runtime, expected none; "
            f"{visible[0]} first: TensorFlow's own would be called in their place"
        )


def relocate(
    libraries: Sequence[pathlib.Path], bundle: pathlib.Path, patchelf: pathlib.Path
) -> None:
    """Has the op libraries find TensorFlow, oneDNN and OpenMP within the bundle.

    Args:
        libraries: paths within the bundle.
        bundle: its root.
        patchelf: path of the program that sets run paths.

    Raises:
        RuntimeError: OpenMP's library is not on this machine.
    """
    lib = pathlib.Path(bundle) / "python" / "lib"
    for path in libraries:
        relative = os.path.relpath(lib, path.parent)
        interpreter.set_run_path(patchelf, path, f"$ORIGIN/{relative}")
        if "libgomp.so.1" in elf.needed(elf.headers([path])[path]):
            origin = elf.located(path).get("libgomp.so.1")
            if origin is None:
                raise RuntimeError(f"{path} needs libgomp.so.1, which this machine does not have")
            if not (lib / "libgomp.so.1").exists():
                shutil.copy2(os.path.realpath(origin), lib / "libgomp.so.1")
                interpreter.set_run_path(patchelf, lib / "libgomp.so.1", "$ORIGIN")
    for path in lib.glob("libdnnl.so*"):
        if not path.is_symlink():
            interpreter.set_run_path(patchelf, path, "$ORIGIN")


def driver_needed(build_tree: pathlib.Path) -> str:
    """Returns the oldest NVIDIA driver that runs the kernels: nvcc's CUDA release decides.

    Args:
        build_tree: where CMake built the ops; it notes the compiler's version there.

    Raises:
        RuntimeError: there is no such note, or the release is not known here.
    """
    text = "".join(p.read_text() for p in pathlib.Path(build_tree).glob(_COMPILER_NOTE))
    found = re.search(r'set\(CMAKE_CUDA_COMPILER_VERSION "(\d+)\.', text)
    if found is None or found[1] not in _DRIVERS:
        raise RuntimeError(
            f"{build_tree}/{_COMPILER_NOTE} names CUDA {found and found[1]}, expected one of "
            f"{', '.join(_DRIVERS)}"
        )
    return _DRIVERS[found[1]]
