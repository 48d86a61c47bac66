"""The Python packages of a bundle: installed by pip, then stripped."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

from deploy.airgap import elf

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN_TIME = [
    "absl-py", "cloudpickle", "msgspec", "numpy", "onednn-cpu-gomp", "packaging", "pip",
    "psutil", "pyyaml", "setuptools", "tqdm", "xxhash", "zstandard",
]  # fmt: skip
# Installed without what they need in turn: that of MLPerf's checkers, not of its log.
ALONE = ["mlperf-logging"]
# What --with adds.
GROUPS = {
    "report": ["jinja2", "matplotlib"],
    "preprocess": ["duckdb", "pyarrow"],
    "test": [
        "hypothesis", "pytest", "pytest-timeout", "pytest-xdist", "scikit-learn", "scipy",
    ],
    "build": ["cmake", "ninja", "onednn-devel-cpu-gomp"],
}  # fmt: skip
# TensorFlow asks for these, and runs without: Clang for its own developers, Google's cloud storage,
# and the TensorBoard server's data half.
NOT_NEEDED = ["libclang", "tensorflow-io-gcs-filesystem", "tensorboard-data-server"]
# Symbol tables of libraries smaller than this are not worth a run of strip.
_STRIP_BYTES = 2**20


def tensorflow_version() -> str:
    """Returns the version of TensorFlow that constraints.txt pins."""
    text = (ROOT / "constraints.txt").read_text()
    found = re.search(r"^tensorflow-cpu==(\S+)", text, re.MULTILINE)
    if found is None:
        raise RuntimeError("constraints.txt: expected a line tensorflow-cpu==VERSION, found none")
    return found[1]


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
    wanted = [f"tensorflow=={tensorflow_version()}", *RUN_TIME]
    for group in groups:
        wanted += GROUPS[group]
    options = ["--no-compile", "--no-warn-script-location"]
    options += ["--constraint", ROOT / "constraints.txt"]
    pip("install", *options, *wanted, python=python)
    pip("install", *options, "--no-deps", *ALONE, python=python)
    told = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return pathlib.Path(told.stdout.strip())


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
            subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)
    note("symbol tables that only debuggers read")
    return removed


def size(folder: pathlib.Path) -> int:
    """Returns the bytes of all files below a folder."""
    paths = (os.path.join(root, n) for root, _, names in os.walk(folder) for n in names)
    return sum(os.lstat(path).st_size for path in paths)
