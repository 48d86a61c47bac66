"""The command that installs a missing package, for error messages."""

from __future__ import annotations

import pathlib
import sys


def install_command(*packages: str) -> str:
    """Returns the command that installs packages for the running Python.

    In an environment that `make venv` created, the command uses the versions pinned there.
    """
    pins = pathlib.Path(sys.prefix) / "constraints.txt"
    constraint = f"-c {pins} " if pins.exists() else ""
    return f"{sys.executable} -m pip install {constraint}{' '.join(packages)}"
