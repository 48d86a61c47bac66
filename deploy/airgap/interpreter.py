"""Makes a relocatable copy of the running Python.

CPython finds its standard library relative to its executable, so that only the run paths of its
libraries must change. The copy includes the libraries that it needs (OpenSSL, libffi, SQLite, ...)
except the C library.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

from deploy.airgap import BundleError, elf

# Tests, editors, installers and GUI modules of the standard library.
EXCLUDED = {
    "test", "idlelib", "turtledemo", "tkinter", "lib2to3", "ensurepip", "site-packages",
    "__pycache__", "pydoc_data", "turtle.py",
}  # fmt: skip
EXCLUDED_MODULES = ("_tkinter", "_test", "_ctypes_test", "_crypt.", "nis.", "ossaudiodev", "xx")


def copy(target: pathlib.Path, patchelf: pathlib.Path) -> pathlib.Path:
    """Copies the running interpreter to a new folder; returns the path of the copy's executable.

    Raises:
        BundleError: the interpreter has an unknown folder layout, or lacks a library.
    """
    base = pathlib.Path(sys.base_prefix)
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    executable, library = base / "bin" / name, base / "lib" / name
    if not executable.exists() or not (library / "os.py").exists():
        problem = f"unknown layout: expected {executable} and {library}/os.py"
        raise BundleError.of_path(sys.executable, problem)
    (target / "bin").mkdir(parents=True)
    copied = target / "bin" / name
    shutil.copy2(executable, copied)
    for alias in ("python3", "python"):
        (target / "bin" / alias).symlink_to(name)
    shutil.copytree(library, target / "lib" / name, ignore=_ignored, symlinks=True)
    (target / "lib" / name / "site-packages").mkdir()
    shared = sysconfig.get_config_var("INSTSONAME") or ""
    if ".so" in shared:
        origin = pathlib.Path(sysconfig.get_config_var("LIBDIR")) / shared
        shutil.copy2(origin, target / "lib" / shared)
    _copy_libraries(target, executable, patchelf)
    return copied


def _ignored(folder, names):
    inside = pathlib.Path(folder).name
    return [
        name
        for name in names
        if name in EXCLUDED
        or name.startswith("config-")
        or (inside == "lib-dynload" and name.startswith(EXCLUDED_MODULES))
    ]


def _copy_libraries(target, executable, patchelf):
    """Copies the libraries that the copy needs to its lib folder, and sets run paths to it."""
    lib = target / "lib"
    needed = {}
    for path in elf.files(target):
        needed.update(_needed_libraries(path, executable))
    for name, origin in needed.items():
        if not (lib / name).exists():
            shutil.copy2(os.path.realpath(origin), lib / name)
            (lib / name).chmod(0o755)
    for path in elf.files(target):
        relative = os.path.relpath(lib, path.parent)
        set_run_path(patchelf, path, "$ORIGIN" if relative == "." else f"$ORIGIN/{relative}")


def _needed_libraries(path, executable):
    """Returns {name: path on this machine} of the libraries that a file loads, except libc."""
    found = elf.loaded_libraries(path)
    # Extension modules take libpython from the executable that loads them.
    inherited = elf.loaded_libraries(executable).items()
    found.update({name: origin for name, origin in inherited if name.startswith("libpython")})
    header = elf.headers([path])[pathlib.Path(path)]
    missing = [n for n in elf.needed(header) if n not in found and not elf.GLIBC.match(n)]
    if missing:
        problem = f"{path} needs {', '.join(missing)}, which cannot be found"
        raise BundleError(problem, path=path, found=missing)
    return {n: o for n, o in found.items() if not elf.GLIBC.match(n) and "libpython" not in n}


def set_run_path(
    patchelf: pathlib.Path, path: pathlib.Path, run_path: str, option: str = "--set-rpath"
) -> None:
    """Sets, or with "--add-rpath" extends, where an ELF file searches libraries.

    Raises:
        BundleError: patchelf failed.
    """
    done = subprocess.run(
        [str(patchelf), option, run_path, str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BundleError(f"patchelf failed on {path}: {done.stderr.strip()}", path=path)


def relocate_scripts(folder: pathlib.Path) -> None:
    """Rewrites the first lines of Python scripts to run the Python in their own folder."""
    first_lines = (
        '#!/bin/sh\n\'\'\'exec\' "$(dirname "$(readlink -f "$0")")/python3" "$0" "$@"\n\' \'\'\'\n'
    )
    for path in sorted(pathlib.Path(folder).iterdir()):
        if path.is_symlink() or not path.is_file() or elf.is_elf(path):
            continue
        first, _, rest = path.read_bytes().partition(b"\n")
        if first.startswith(b"#!") and b"python" in first:
            path.write_bytes(first_lines.encode() + rest)
