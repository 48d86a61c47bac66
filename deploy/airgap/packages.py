"""The Python packages of a bundle: installed by pip, then stripped."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata

from deploy.airgap import elf
from deploy.requirements import ROOT, lock_path, supported

# Groups of pyproject.toml that every bundle has. TensorFlow, with CUDA, comes by itself.
RUN_TIME = ("run", "horovod", "pip")
# And of other groups: what builds the ops brings oneDNN's library along, and unpacking takes
# Zstandard.
ALSO = ("onednn-cpu-gomp", "setuptools", "zstandard")
# Installed without what they need in turn: that of MLPerf's checkers, not of its log.
ALONE = ("mlperf",)
# What --with adds: groups again.
GROUPS = {
    "report": ("report",),
    "preprocess": ("preprocess",),
    "test": ("test",),
    "build": ("build", "onednn"),
}
# TensorFlow asks for these, and runs without: Clang for its own developers, Google's cloud storage,
# and the TensorBoard server's data half.
NOT_NEEDED = ["libclang", "tensorflow-io-gcs-filesystem", "tensorboard-data-server"]
# Symbol tables of libraries smaller than this are not worth a run of strip.
_STRIP_BYTES = 2**20


def tensorflow_version() -> str:
    """Returns the version of TensorFlow in the environment that runs this: the bundle's, too.

    Raises:
        RuntimeError: there is none, or it has no lock.
    """
    for name in ("tensorflow-cpu", "tensorflow"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if not lock_path(version).exists():
            raise RuntimeError(
                f"TensorFlow {version} is not supported: expected one of {', '.join(supported())}"
            )
        return version
    raise RuntimeError("this Python has no TensorFlow: run it in what make venv makes")


def pip(*arguments: str | os.PathLike, python: pathlib.Path | None = None) -> str:
    """Runs the pip of the interpreter that runs this.

    Args:
        arguments: of pip.
        python: another interpreter to install for.

    Raises:
        RuntimeError: pip failed; its last lines are in the message.
    """
    command = [sys.executable, "-m", "pip"]
    if python is not None:
        command += ["--python", str(python)]
    command += ["--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise RuntimeError(f"{' '.join(command)} returned {done.returncode}:\n{tail}")
    return done.stdout


def install(python: pathlib.Path, groups: Sequence[str] = ()) -> pathlib.Path:
    """Installs TensorFlow with CUDA and what the trainer imports.

    Args:
        python: path of the bundle's interpreter.
        groups: names of `GROUPS`.

    Returns:
        path of its site-packages.

    Raises:
        RuntimeError: pip failed.
    """
    version = tensorflow_version()
    options = ["--no-compile", "--no-warn-script-location", "--constraint", lock_path(version)]
    wanted = [name for key in groups for name in GROUPS[key]]
    pip("install", *options, *_groups(*RUN_TIME, *wanted), *ALSO, f"tensorflow=={version}",
        python=python)  # fmt: skip
    pip("install", *options, "--no-deps", *_groups(*ALONE), python=python)
    told = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return pathlib.Path(told.stdout.strip())


def _groups(*names):
    return [word for name in names for word in ("--group", f"{ROOT / 'pyproject.toml'}:{name}")]


def tools(folder: pathlib.Path) -> None:
    """Installs what changes the libraries of a bundle (group `airgap`) into a folder of its own.

    Raises:
        RuntimeError: pip failed.
    """
    pip("install", "--quiet", "--target", folder, "--upgrade", "--constraint",
        lock_path(tensorflow_version()), *_groups("airgap"))  # fmt: skip


def wheels(requirements: Mapping[str, str], folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Downloads wheels, one for each requirement, without what they need in turn.

    Args:
        requirements: {package: "package==version"}.
        folder: where they are kept; a wheel that is there is not downloaded again.

    Returns:
        {package: path}.

    Raises:
        RuntimeError: pip failed.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pip("download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder,
        "--find-links", folder, *requirements.values())  # fmt: skip
    found = {}
    for package, requirement in requirements.items():
        stem = requirement.replace("-", "_").replace("==", "-")
        found[package] = next(folder.glob(f"{stem}-*.whl"))
    return found


def strip(python: pathlib.Path, site_packages: pathlib.Path, headers: bool) -> dict[str, int]:
    """Removes what a bundle does not need.

    Args:
        python: path of the bundle's interpreter.
        site_packages: its packages.
        headers: keep TensorFlow's C++ headers, which building the ops there takes.

    Returns:
        {what: bytes removed}.
    """
    site_packages = pathlib.Path(site_packages)
    removed, before = {}, size(site_packages)

    def note(what):
        nonlocal before
        now = size(site_packages)
        removed[what], before = before - now, now

    pip("uninstall", "--yes", *NOT_NEEDED, python=python)
    note("packages that TensorFlow runs without: " + ", ".join(NOT_NEEDED))
    if not headers:
        shutil.rmtree(site_packages / "tensorflow" / "include", ignore_errors=True)
        note("TensorFlow's C++ headers")
    for root, folders, _ in os.walk(site_packages):
        for name in [n for n in folders if n in ("tests", "__pycache__")]:
            shutil.rmtree(pathlib.Path(root, name))
            folders.remove(name)
    note("the packages' own tests")
    # One library under three names.
    for path in site_packages.parents[1].glob("libdnnl.so*"):
        if path.name != "libdnnl.so.3":
            path.unlink()
    for path in elf.files(site_packages):
        if path.stat().st_size >= _STRIP_BYTES and "nvidia" not in path.parts:
            _strip_symbols(path)
    note("symbol tables that only debuggers read")
    return removed


def _strip_symbols(path):
    """Removes symbol tables; leaves a file alone that the loader would refuse afterwards.

    Wheels hold libraries that patchelf has changed, and strip may put their segments where they
    cannot be mapped.
    """
    stripped = path.with_name(path.name + ".stripped")
    subprocess.run(["strip", "--strip-unneeded", "-o", str(stripped), str(path)], check=True)
    if elf.mappable(elf.headers([stripped])[stripped]):
        shutil.copymode(path, stripped)
        os.replace(stripped, path)
    else:
        stripped.unlink()


def size(folder: pathlib.Path) -> int:
    """Returns the bytes of all files below a folder."""
    paths = (os.path.join(root, n) for root, _, names in os.walk(folder) for n in names)
    return sum(os.lstat(path).st_size for path in paths)
