"""Links pip's CUDA libraries to where TensorFlow searches them: `python3 -m deploy.cuda_links`.

TensorFlow searches a list of pip package folders, compiled into libtensorflow_framework.so.2. In
2.21.0 the list lacks cuSOLVER's folder: with `tensorflow[and-cuda]` alone, libcusolver.so.11 does
not load and TensorFlow registers no GPU. This module links the library into a folder on the list,
unless one is there already. Run it with the environment's Python; it needs no package.
"""

from __future__ import annotations

import os
import pathlib
import sys
import sysconfig

#: {library: (its folder, a folder on TensorFlow's list)}, relative to site-packages.
LINKS = {"libcusolver.so.11": ("nvidia/cusolver/lib", "nvidia/cusparse/lib")}


def link(site_packages: str | os.PathLike) -> list[pathlib.Path]:
    """Links the installed libraries of `LINKS` that TensorFlow does not find yet.

    Returns the new links. `site_packages` contains `tensorflow/` and `nvidia/`.

    Raises:
        OSError: a folder cannot be written.
    """
    made = []
    for name, (origin, target) in LINKS.items():
        library = pathlib.Path(site_packages, origin, name)
        place = pathlib.Path(site_packages, target, name)
        if not library.exists() or not place.parent.is_dir() or place.exists():
            continue
        # A dangling link of an earlier installation.
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(library, place.parent))
        made.append(place)
    return made


def main() -> int:
    """Links libraries in the running Python's environment; returns the exit code."""
    try:
        link(sysconfig.get_path("purelib"))
    except OSError as error:
        print(f"cuda_links: cannot link {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
