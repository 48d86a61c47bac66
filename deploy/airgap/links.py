"""Makes every library of a bundle find its dependencies.

Some wheels expect libraries such as zlib on the host. Minimal hosts lack them, so that files that
need them get a run path to the libraries copied with the Python. A library that is not in the
bundle is an error.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping

from deploy.airgap import BundleError, elf, interpreter

# From the host: the C library, the C++ library (checked by unpack.sh), and the GPU driver.
_HOST = re.compile(elf.GLIBC.pattern + r"|^(libstdc\+\+|libgcc_s|libcuda)\.so")


def plan(
    headers: Mapping[pathlib.Path, str], lib: pathlib.Path
) -> tuple[list[pathlib.Path], list[tuple[pathlib.Path, str]]]:
    """Determines which files do not find a library.

    Args:
        headers: {path: output of `objdump -p`} of all ELF files of the bundle.
        lib: the folder with the libraries copied with the Python.

    Returns:
        (paths that need a run path to `lib`, [(path, name of a library not in the bundle)]).
    """
    bundled = {path.name for path in headers}
    added, missing = set(), []
    for path, header in headers.items():
        folders = [
            pathlib.Path(entry.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", str(path.parent)))
            for entry in _run_paths(header)
        ]
        for name in elf.needed(header):
            if _HOST.match(name) or any((folder / name).exists() for folder in folders):
                continue
            if (lib / name).exists():
                added.add(path)
            elif name not in bundled:
                # TensorFlow's libraries are loaded earlier, from other folders.
                missing.append((path, name))
    return sorted(added), missing


def _run_paths(header):
    found = re.findall(r"^\s+(?:RUNPATH|RPATH)\s+(\S+)", header, re.MULTILINE)
    return [entry for line in found for entry in line.split(":") if entry]


def complete(tree: pathlib.Path, lib: pathlib.Path, patchelf: pathlib.Path) -> list[pathlib.Path]:
    """Adds run paths so that every library of a bundle finds its dependencies.

    Returns the changed files. `lib` is as in `plan`.

    Raises:
        BundleError: libraries are not in the bundle; the message names them all.
    """
    changed, missing = plan(elf.headers(elf.files(tree)), lib)
    if missing:
        lines = "".join(f"\n  {path} needs {name}" for path, name in missing)
        raise BundleError(f"the bundle lacks {len(missing)} libraries:{lines}", found=missing)
    for path in changed:
        # With its own folder: a file with a run path does not inherit its loader's.
        run_path = f"$ORIGIN:$ORIGIN/{os.path.relpath(lib, path.parent)}"
        interpreter.set_run_path(patchelf, path, run_path, "--add-rpath")
    return changed
