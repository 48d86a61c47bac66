"""Which library finds which within a bundle.

Wheels may count on a few libraries of the host, zlib for one, which a bare host lacks. Those that
came along with the Python are made to be found; one that is nowhere is an error.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
from collections.abc import Mapping

from deploy.airgap import elf

# The host's: the C library, the C++ library (unpack.sh checks it), and the GPU's driver.
_HOST = re.compile(elf.GLIBC.pattern + r"|^(libstdc\+\+|libgcc_s|libcuda)\.so")


def plan(
    told: Mapping[pathlib.Path, str], lib: pathlib.Path
) -> tuple[list[pathlib.Path], list[tuple[pathlib.Path, str]]]:
    """Returns what must be done for every library to be found.

    Args:
        told: {path: header} of all ELF files of the bundle.
        lib: the folder with the libraries that came along with the Python.

    Returns:
        (paths that must look in `lib` too, [(path, name) of libraries that are nowhere]).
    """
    lib = pathlib.Path(lib)
    everywhere = {path.name for path in told}
    added, missing = set(), []
    for path, header in told.items():
        folders = [
            pathlib.Path(entry.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", str(path.parent)))
            for entry in _run_paths(header)
        ]
        for name in elf.needed(header):
            if _HOST.match(name) or any((folder / name).exists() for folder in folders):
                continue
            if (lib / name).exists():
                added.add(path)
            elif name not in everywhere:
                # One that is elsewhere in the bundle is loaded before: TensorFlow's own.
                missing.append((path, name))
    return sorted(added), missing


def _run_paths(header):
    found = re.findall(r"^\s+(?:RUNPATH|RPATH)\s+(\S+)", header, re.MULTILINE)
    return [entry for line in found for entry in line.split(":") if entry]


def complete(tree: pathlib.Path, lib: pathlib.Path, patchelf: pathlib.Path) -> list[pathlib.Path]:
    """Has every library of a bundle find what it needs.

    Args:
        tree: the bundle's root.
        lib: as in `plan`.
        patchelf: path of the program that sets run paths.

    Returns:
        paths of the files that were changed.

    Raises:
        RuntimeError: a library is nowhere in the bundle; the message names all of those.
    """
    changed, missing = plan(elf.headers(elf.files(tree)), lib)
    if missing:
        lines = "".join(f"\n  {path} needs {name}" for path, name in missing)
        raise RuntimeError(f"the bundle lacks {len(missing)} libraries:{lines}")
    for path in changed:
        # Its own folder too: a file with a path of its own no longer takes its loader's.
        run_path = f"$ORIGIN:$ORIGIN/{os.path.relpath(lib, path.parent)}"
        done = subprocess.run(
            [str(patchelf), "--add-rpath", run_path, str(path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"patchelf refused {path}: {done.stderr.strip()}")
    return changed
