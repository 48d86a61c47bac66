"""Writes the locks: `python3 -m deploy.locks [VERSION ...]`.

For each TensorFlow of `locks/matrix.txt` uv resolves the dependency groups of pyproject.toml for
every Python of that row at once, into `locks/tensorflow-VERSION.txt`. What is pinned there stays as
long as it fits; `--upgrade` takes the newest of everything. Needs the package index.
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

_GROUPS = ("cpu", "gpu-alone", "environment", "pip", "locks", "airgap")
_LINUX = "sys_platform == 'linux'"


def groups(tensorflow: str) -> tuple[str, ...]:
    """Returns the dependency groups that the lock of a TensorFlow pins.

    CUDA's libraries come from pip with 2.15.1 and later: 2.12 and 2.13 have no such extra, and
    that of 2.14 asks for a TensorRT that no longer installs. NumPy 2 came with 2.18.
    """
    release = tuple(int(number) for number in tensorflow.split("."))
    gpu = ("gpu",) if release >= (2, 15, 1) else ()
    return (*_GROUPS, *gpu, *(("numpy-1",) if release < (2, 18) else ()))


def groups_digest() -> str:
    """Returns a digest of pyproject.toml's dependency groups: a lock of another is out of date."""
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
    """Returns the text of a lock.

    Args:
        tensorflow: a version in `locks/matrix.txt`.
        folder: an empty one to work in.
        upgrade: take the newest of everything, whatever the lock says today.

    Raises:
        RuntimeError: uv is not there, or it found no solution; the message holds what it printed.
    """
    pythons = supported()[tensorflow]
    lowest, highest = (int(p.partition(".")[2]) for p in (pythons[0], pythons[-1]))
    above = f"3.{highest + 1}"
    # uv reads the range of Pythons and the platform from the project whose groups it resolves.
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
        raise RuntimeError("uv was not found: pip install --group locks")
    command = [
        uv, "pip", "compile", "--quiet", "--universal", "--python-version", f"3.{lowest}",
        "--no-python-downloads", "--strip-extras", "--no-annotate", "--no-header", "--no-sources",
        "--constraints", str(versions), "--output-file", str(output),
        *(f"--group={folder / 'pyproject.toml'}:{name}" for name in groups(tensorflow)),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode != 0:
        raise RuntimeError(f"uv found no packages for TensorFlow {tensorflow}:\n{done.stderr}")
    # All of this is for Linux: the marker would only lengthen the lines.
    pins = re.sub(rf"( ;| and) {re.escape(_LINUX)}$", "", output.read_text(), flags=re.MULTILINE)
    return header(tensorflow) + pins


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes locks, or compares them with what uv resolves; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("versions", nargs="*", metavar="VERSION", help="of TensorFlow; none: all")
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything")
    parser.add_argument("--check", action="store_true",
        help="write nothing; exit 1 if a lock is not what the groups ask for")  # fmt: skip
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
