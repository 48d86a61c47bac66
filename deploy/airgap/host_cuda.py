"""Links a host's own CUDA libraries to where a lean bundle's TensorFlow looks for them.

    ./dlrm python -m deploy.airgap.host_cuda [FOLDER ...]

TensorFlow opens cuBLAS and cuDNN by the names of CUDA 12 and looks functions up by name, so that
CUDA 13's cuBLAS, which kept those functions and their arguments, can stand under the older name.
Folders are searched in their order: those given, LD_LIBRARY_PATH, the usual places.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import sysconfig
from collections.abc import Sequence

from storage.arguments import first_paragraph

_USUAL = ("/usr/local/cuda/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64")
#: {library: (folder below nvidia/, the name TensorFlow opens, names on hosts, the best first)}.
LIBRARIES = {
    "cuBLASLt": ("cublas", "libcublasLt.so.12", ("libcublasLt.so.12", "libcublasLt.so.13")),
    "cuBLAS": ("cublas", "libcublas.so.12", ("libcublas.so.12", "libcublas.so.13")),
    "cuDNN": ("cudnn", "libcudnn.so.9", ("libcudnn.so.9",)),
}


def find(names: Sequence[str], folders: Sequence[pathlib.Path]) -> pathlib.Path | None:
    """Returns the first of some names that any folder holds, or None."""
    found = (folder / name for name in names for folder in folders)
    return next((path for path in found if path.exists()), None)


def link(folders: Sequence[pathlib.Path], site_packages: pathlib.Path) -> dict[str, pathlib.Path]:
    """Links the libraries that TensorFlow opens to a host's.

    A library is linked by its own name too, and so are the other parts of cuDNN: each is then
    found beside the one that needs it.

    Args:
        folders: where the host may have them, in the order of preference.
        site_packages: the folder that holds `tensorflow/`.

    Returns:
        {library: the host's file}.

    Raises:
        RuntimeError: a library is in none of the folders.
    """
    found = {}
    for library, (place, opened, names) in LIBRARIES.items():
        path = find(names, folders)
        if path is None:
            places = ", ".join(map(str, folders))
            raise RuntimeError(f"{library}: expected {' or '.join(names)} in one of: {places}")
        target = site_packages / "nvidia" / place / "lib"
        target.mkdir(parents=True, exist_ok=True)
        parts = path.parent.glob("libcudnn*.so.9") if place == "cudnn" else [path]
        for name, origin in [(opened, path), *((part.name, part) for part in parts)]:
            (target / name).unlink(missing_ok=True)
            (target / name).symlink_to(origin.resolve())
        found[library] = path
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Links the libraries and prints them; returns the exit code."""
    parser = argparse.ArgumentParser(description=first_paragraph(__doc__))
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="where to look first")
    options = parser.parse_args(arguments)
    searched = [*options.folders, *os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep), *_USUAL]
    folders = [pathlib.Path(folder) for folder in searched if folder]
    try:
        found = link(folders, pathlib.Path(sysconfig.get_path("purelib")))
    except (RuntimeError, OSError) as error:
        print(f"host_cuda: {error}", file=sys.stderr)
        return 1
    for library, path in found.items():
        print(f"host_cuda: {library}: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
