"""Writes the locks: `python3 -m deploy.locks [VERSION ...]`.

For each TensorFlow in `locks/matrix.txt`, uv resolves the dependency groups of pyproject.toml for
all Pythons of that row into `locks/tensorflow-VERSION.txt`. Existing pins are kept while they
satisfy the groups; `--upgrade` selects the newest versions. Needs the package index.
"""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence

from deploy.requirements import ROOT, lock_path, supported

_GROUPS = ("cpu", "gpu-alone", "nvcc", "environment", "pip", "locks", "airgap")
_LINUX = "sys_platform == 'linux'"


def groups(tensorflow: str) -> tuple[str, ...]:
    """Returns the dependency groups that a TensorFlow version's lock pins.

    pip installs CUDA's libraries from 2.15.1 on: 2.12 and 2.13 have no extra `and-cuda`, and that
    of 2.14 requires a TensorRT that can no longer be installed. 2.18 is the first with NumPy 2.
    """
    release = tuple(int(number) for number in tensorflow.split("."))
    gpu = ("gpu",) if release >= (2, 15, 1) else ()
    return (*_GROUPS, *gpu, *(("numpy-1",) if release < (2, 18) else ()))


def groups_digest() -> str:
    """Returns a digest of pyproject.toml's dependency groups, to detect outdated locks."""
    text = (ROOT / "pyproject.toml").read_text()
    section = re.search(r"^\[dependency-groups\]\n(.*?)^\[", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    lines = [line for line in section[1].splitlines() if line and not line.startswith("#")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def header(tensorflow: str) -> str:
    """Returns the first lines of a lock."""
    pythons = " ".join(supported()[tensorflow])
    return (
        f"# TensorFlow {tensorflow} on Linux, Python {pythons}; pyproject.toml's dependency groups "
        f"({groups_digest()}).\n# Written by `python3 -m deploy.locks`: do not edit.\n"
    )


def resolve(tensorflow: str, folder: pathlib.Path, upgrade: bool = False) -> str:
    """Returns the text of a lock, resolved in an empty folder.

    `upgrade` ignores the existing lock and selects the newest versions.

    Raises:
        RuntimeError: uv is not installed or found no solution; the message has its output.
    """
    pythons = supported()[tensorflow]
    lowest, highest = (int(p.partition(".")[2]) for p in (pythons[0], pythons[-1]))
    above = f"3.{highest + 1}"
    # uv reads the Python range and the platform from the pyproject.toml that it resolves.
    text = re.sub(
        r"^requires-python = .*", f'requires-python = ">=3.{lowest},<{above}"',
        (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE,
    )  # fmt: skip
    environments = f"{_LINUX} and python_full_version < '{above}'"
    (folder / "pyproject.toml").write_text(
        f'{text}\n[tool.uv]\nenvironments = ["{environments}"]\n'
    )
    versions = folder / "versions.txt"
    versions.write_text(f"tensorflow-cpu=={tensorflow}\ntensorflow=={tensorflow}\n")
    output = folder / "lock.txt"
    if lock_path(tensorflow).exists() and not upgrade:
        shutil.copy(lock_path(tensorflow), output)
    uv = shutil.which("uv", path=sysconfig.get_path("scripts")) or shutil.which("uv")
    if uv is None:
        raise RuntimeError("uv was not found; try pip install --group locks")
    command = [
        uv, "pip", "compile", "--quiet", "--universal", "--python-version", f"3.{lowest}",
        "--no-python-downloads", "--strip-extras", "--no-annotate", "--no-header", "--no-sources",
        "--constraints", str(versions), "--output-file", str(output),
        *(f"--group={folder / 'pyproject.toml'}:{name}" for name in groups(tensorflow)),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode != 0:
        raise RuntimeError(f"uv found no solution for TensorFlow {tensorflow}:\n{done.stderr}")
    # Locks are for Linux only; the marker would be noise.
    pins = re.sub(rf"( ;| and) {re.escape(_LINUX)}$", "", output.read_text(), flags=re.MULTILINE)
    return header(tensorflow) + pins


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes or checks locks; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("versions", nargs="*", metavar="VERSION", help="TensorFlow version [all]")
    parser.add_argument(
        "--upgrade", action="store_true", help="select the newest version of every package"
    )
    parser.add_argument("--check", action="store_true",
        help="write nothing; exit 1 if a lock is out of date")  # fmt: skip
    options = parser.parse_args(arguments)
    unknown = [version for version in options.versions if version not in supported()]
    if unknown:
        parser.error(f"TensorFlow {unknown[0]}: expected one of {', '.join(supported())}")
    differ = []
    for version in options.versions or supported():
        with tempfile.TemporaryDirectory() as folder:
            try:
                text = resolve(version, pathlib.Path(folder), options.upgrade)
            except RuntimeError as error:
                print(f"locks: {error}", file=sys.stderr)
                return 1
        path = lock_path(version)
        if not path.exists() or path.read_text() != text:
            differ.append(version)
            if not options.check:
                path.write_text(text)
        pins = sum(not line.startswith("#") for line in text.splitlines())
        print(f"{path.relative_to(ROOT)}: {pins} pins{', changed' * (version in differ)}")
    return int(options.check and bool(differ))


if __name__ == "__main__":
    sys.exit(main())
