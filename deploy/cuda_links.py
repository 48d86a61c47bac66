"""Has TensorFlow find the CUDA libraries that pip installed: `python3 -m deploy.cuda_links`.

TensorFlow's wheels look for CUDA in the folders of pip's packages, by a list inside
libtensorflow_framework.so.2. In 2.21.0 that list lacks cuSOLVER's folder: with
`tensorflow[and-cuda]` alone libcusolver.so.11 does not open and no GPU is registered. A link in a
folder that is on the list makes up for it; where TensorFlow finds the library anyway, it does
nothing. Run by the Python of the environment; needs no package.
"""

from __future__ import annotations

import os
import pathlib
import sys
import sysconfig

#: {library: (pip's folder of it, a folder on TensorFlow's list)}, both below site-packages.
LINKS = {"libcusolver.so.11": ("nvidia/cusolver/lib", "nvidia/cusparse/lib")}


def link(site_packages: str | os.PathLike) -> list[pathlib.Path]:
    """Links the libraries of `LINKS` that are installed and not linked yet.

    Args:
        site_packages: the folder that holds `tensorflow/` and `nvidia/`.

    Returns:
        paths of the links made.

    Raises:
        OSError: a folder cannot be written.
    """
    made = []
    for name, (origin, target) in LINKS.items():
        library = pathlib.Path(site_packages, origin, name)
        place = pathlib.Path(site_packages, target, name)
        if not library.exists() or not place.parent.is_dir() or place.exists():
            continue
        # A link of an earlier installation, whose library is gone.
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(library, place.parent))
        made.append(place)
    return made


def main() -> int:
    """Links in the environment of the running Python; returns the exit code."""
    try:
        link(sysconfig.get_path("purelib"))
    except OSError as error:
        print(f"cuda_links: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
