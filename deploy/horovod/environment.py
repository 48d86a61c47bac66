"""Prints facts on the running environment for build.sh, as `name value` lines.

If the build lacks a package, prints one error line instead and exits with 1.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys
import sysconfig

# {package: module} that Horovod's setup.py needs; it would download missing ones, unpinned.
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
    """Returns the requirement for the NCCL wheel that matches this TensorFlow."""
    for line in importlib.metadata.requires("tensorflow") or () if _version("tensorflow") else ():
        if match := re.match(r"(nvidia-nccl-cu\d+)\s*([^;]*)", line):
            return match[1] + match[2].strip(" ()")
    return "nvidia-nccl-cu12"


def nccl_folder() -> str:
    """Returns the folder of the installed NCCL wheel, or ""."""
    for folder in (sysconfig.get_path("platlib"), sysconfig.get_path("purelib")):
        nccl = os.path.join(folder, "nvidia", "nccl")
        if os.path.exists(os.path.join(nccl, "include", "nccl.h")):
            return nccl
    return ""


def _makes_wheels() -> bool:
    # setuptools builds wheels itself since 70.1.
    return any(
        importlib.util.find_spec(name) for name in ("wheel", "setuptools.command.bdist_wheel")
    )


def main() -> int:
    """Prints the facts; returns the exit code."""
    packages = {name: _version(name) for name in _TENSORFLOW if _version(name)}
    if not packages:
        print(f"expected TensorFlow in the environment of {sys.executable}, found none")
        return 1
    missing = [name for name, module in _NEEDED.items() if not importlib.util.find_spec(module)]
    if "setuptools" not in missing and not _makes_wheels():
        missing.append("wheel")
    if missing:
        names = " ".join(missing)
        print(f"{sys.executable} lacks packages that the build needs; try pip install {names}")
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
