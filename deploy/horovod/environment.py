"""Prints what build.sh must know of the environment that runs this, as `name value` lines.

Prints one line instead, and exits with 1, if a package is missing that the build needs.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys
import sysconfig

# What Horovod's setup.py imports or requires; it would fetch them by itself, unpinned.
_NEEDED = {
    "setuptools": "setuptools", "packaging": "packaging", "cloudpickle": "cloudpickle",
    "psutil": "psutil", "pyyaml": "yaml",
}  # fmt: skip
_TENSORFLOW = ("tensorflow-cpu", "tensorflow", "tensorflow-gpu", "tensorflow-intel")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def nccl_package() -> str:
    """Returns the requirement for NCCL's wheel that goes with this TensorFlow."""
    for line in importlib.metadata.requires("tensorflow") or () if _version("tensorflow") else ():
        if match := re.match(r"(nvidia-nccl-cu\d+)\s*([^;]*)", line):
            return match[1] + match[2].strip(" ()")
    return "nvidia-nccl-cu12"


def nccl_folder() -> str:
    """Returns the folder of NCCL's wheel, "" if there is none."""
    for folder in (sysconfig.get_path("platlib"), sysconfig.get_path("purelib")):
        nccl = os.path.join(folder, "nvidia", "nccl")
        if os.path.exists(os.path.join(nccl, "include", "nccl.h")):
            return nccl
    return ""


def _makes_wheels() -> bool:
    # setuptools makes them itself since 70.1.
    return any(
        importlib.util.find_spec(name) for name in ("wheel", "setuptools.command.bdist_wheel")
    )


def main() -> int:
    """Prints the facts; returns the exit status."""
    packages = {name: _version(name) for name in _TENSORFLOW if _version(name)}
    if not packages:
        print(f"expected TensorFlow in the environment of {sys.executable}, found none")
        return 1
    missing = [name for name, module in _NEEDED.items() if not importlib.util.find_spec(module)]
    if "setuptools" not in missing and not _makes_wheels():
        missing.append("wheel")
    if missing:
        names = " ".join(missing)
        print(f"{sys.executable} lacks packages that the build needs; pip install {names}")
        return 1
    name, version = next(iter(packages.items()))
    print(f"tensorflow {version}")
    print(f"package {name}")
    print(f"python {sys.implementation.cache_tag} {sysconfig.get_config_var('SOABI')}")
    print(f"nccl-package {nccl_package()}")
    print(f"nccl {nccl_folder()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
