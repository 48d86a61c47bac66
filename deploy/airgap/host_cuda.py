"""Links a host's CUDA libraries to where a lean bundle's TensorFlow searches them.

    ./dlrm python -m deploy.airgap.host_cuda [FOLDER ...]

TensorFlow loads cuBLAS and cuDNN by the file names of CUDA 12 and functions by name. CUDA 13's
cuBLAS has the same functions with the same arguments, so that it works under the older file name.
Folders are searched in this order: arguments, LD_LIBRARY_PATH, common locations.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import sysconfig
from collections.abc import Sequence

from deploy.airgap import BundleError
from storage.arguments import first_paragraph

_COMMON = ("/usr/local/cuda/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64")
#: {library: (folder in nvidia/, file name that TensorFlow loads, names on hosts, best first)}.
LIBRARIES = {
    "cuBLASLt": ("cublas", "libcublasLt.so.12", ("libcublasLt.so.12", "libcublasLt.so.13")),
    "cuBLAS": ("cublas", "libcublas.so.12", ("libcublas.so.12", "libcublas.so.13")),
    "cuDNN": ("cudnn", "libcudnn.so.9", ("libcudnn.so.9",)),
}


def link(folders: Sequence[pathlib.Path], site_packages: pathlib.Path) -> dict[str, pathlib.Path]:
    """Links the libraries that TensorFlow loads to a host's.

    Also links each library by its own name, and the other parts of cuDNN, so that dependent
    libraries find them in the same folder.

    Returns {library: the host's file}; searches the folders in their order.

    Raises:
        BundleError: a library is in none of the folders.
    """
    found = {}
    for library, (place, loaded, names) in LIBRARIES.items():
        candidates = (folder / name for name in names for folder in folders)
        path = next((path for path in candidates if path.exists()), None)
        if path is None:
            places = ", ".join(map(str, folders))
            raise BundleError(
                f"{library}: expected {' or '.join(names)} in one of {places}; give its folder",
                expected=names,
            )
        target = site_packages / "nvidia" / place / "lib"
        target.mkdir(parents=True, exist_ok=True)
        parts = path.parent.glob("libcudnn*.so.9") if place == "cudnn" else [path]
        for name, origin in [(loaded, path), *((part.name, part) for part in parts)]:
            (target / name).unlink(missing_ok=True)
            (target / name).symlink_to(origin.resolve())
        found[library] = path
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Links the libraries and prints them; returns the exit code."""
    parser = argparse.ArgumentParser(description=first_paragraph(__doc__))
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="folders to search first")
    options = parser.parse_args(arguments)
    inherited = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    searched = [*options.folders, *inherited, *_COMMON]
    folders = [pathlib.Path(folder) for folder in searched if folder]
    try:
        found = link(folders, pathlib.Path(sysconfig.get_path("purelib")))
    except (BundleError, OSError) as error:
        print(f"host_cuda: {error}", file=sys.stderr)
        return 1
    for library, path in found.items():
        print(f"host_cuda: {library}: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
