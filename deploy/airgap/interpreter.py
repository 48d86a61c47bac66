"""A Python that runs from wherever its folder lies.

The interpreter that runs this is copied: CPython finds its library relative to its executable, so
that nothing but the run paths of its libraries must be changed. What it needs beside the C library
(OpenSSL, libffi, SQLite ...) comes along.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

from deploy.airgap import elf

# The language's own tests, editors and installers, and modules for windows and old password files.
LEFT_OUT = {
    "test", "idlelib", "turtledemo", "tkinter", "lib2to3", "ensurepip", "site-packages",
    "__pycache__", "pydoc_data", "turtle.py",
}  # fmt: skip
MODULES_LEFT_OUT = ("_tkinter", "_test", "_ctypes_test", "_crypt.", "nis.", "ossaudiodev", "xx")


def copy(target: pathlib.Path, patchelf: pathlib.Path) -> pathlib.Path:
    """Copies the running interpreter.

    Args:
        target: the folder to make: `target/bin/python3`, `target/lib`.
        patchelf: path of the program that sets run paths.

    Returns:
        path of the copy's executable.

    Raises:
        RuntimeError: the running interpreter is laid out in a way that is not known here, or a
            library that it needs is not on this machine.
    """
    target = pathlib.Path(target)
    base = pathlib.Path(sys.base_prefix)
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    executable, library = base / "bin" / name, base / "lib" / name
    if not executable.exists() or not (library / "os.py").exists():
        raise RuntimeError(
            f"the interpreter {sys.executable} has its parts in no known places: expected "
            f"{executable} and {library}/os.py"
        )
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
    _carry(target, executable, patchelf)
    return copied


def _ignored(folder, names):
    inside = pathlib.Path(folder).name
    return [
        name
        for name in names
        if name in LEFT_OUT
        or name.startswith("config-")
        or (inside == "lib-dynload" and name.startswith(MODULES_LEFT_OUT))
    ]


def _carry(target, executable, patchelf):
    """Brings in the libraries that the copy needs, and has each file find them in its folder."""
    lib = target / "lib"
    own = elf.files(target)
    wanted = {}
    for path in own:
        wanted.update(located_or_fail(path, executable))
    for name, origin in wanted.items():
        if not (lib / name).exists():
            shutil.copy2(os.path.realpath(origin), lib / name)
            (lib / name).chmod(0o755)
    for path in elf.files(target):
        relative = os.path.relpath(lib, path.parent)
        set_run_path(patchelf, path, "$ORIGIN" if relative == "." else f"$ORIGIN/{relative}")


def located_or_fail(path: pathlib.Path, executable: pathlib.Path) -> dict[str, str]:
    """Returns {name: path on this machine} of what a file loads, the C library left out.

    Raises:
        RuntimeError: one of them is not on this machine.
    """
    found = elf.located(path)
    # Extension modules take Python's own library from the executable that loads them.
    found.update({k: v for k, v in elf.located(executable).items() if k.startswith("libpython")})
    header = elf.headers([path])[pathlib.Path(path)]
    missing = [n for n in elf.needed(header) if n not in found and not elf.GLIBC.match(n)]
    if missing:
        raise RuntimeError(f"{path} needs {', '.join(missing)}, which this machine does not have")
    return {
        name: origin
        for name, origin in found.items()
        if not elf.GLIBC.match(name) and not name.startswith("libpython")
    }


def set_run_path(patchelf: pathlib.Path, path: pathlib.Path, run_path: str) -> None:
    """Has a library or executable look for what it needs in a place given relative to itself."""
    done = subprocess.run(
        [str(patchelf), "--set-rpath", run_path, str(path)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"patchelf refused {path}: {done.stderr.strip()}")


def relocate_scripts(folder: pathlib.Path) -> None:
    """Rewrites the first lines of Python scripts so that they run the Python beside them."""
    beside = (
        '#!/bin/sh\n\'\'\'exec\' "$(dirname "$(readlink -f "$0")")/python3" "$0" "$@"\n\' \'\'\'\n'
    )
    for path in sorted(pathlib.Path(folder).iterdir()):
        if path.is_symlink() or not path.is_file() or elf.is_elf(path):
            continue
        first, _, rest = path.read_bytes().partition(b"\n")
        if first.startswith(b"#!") and b"python" in first:
            path.write_bytes(beside.encode() + rest)
