"""What every program of this project begins with, before anything but Python's own is imported."""

from __future__ import annotations

import atexit
import contextlib
import os
import pathlib
import sys

from storage import standard_streams
from storage.install_advice import install_command

_ROOT = pathlib.Path(__file__).resolve().parents[1]
EXIT_USER_ERROR = 2


def begin() -> None:
    """Protects the standard streams, and makes one line of what ends a program before its work.

    That is a package that is not installed, and standard output that takes no more.
    """
    standard_streams.protect()
    sys.excepthook = _explain
    # Registered first, it runs last: nothing is printed after it.
    atexit.register(_end)


def _explain(kind, error, traceback):
    if isinstance(error, standard_streams.OutputError):
        return  # `_end` says it.
    if isinstance(error, ModuleNotFoundError) and not _is_ours(error.name):
        # In an environment already, it is one of the packages that few programs need.
        advice = (
            "activate the environment that `make venv` makes (source .venv/bin/activate)"
            if sys.prefix == sys.base_prefix
            else install_command(error.name or "")
        )
        print(
            f"error: the package {error.name} is not installed for {sys.executable}: {advice}",
            file=sys.stderr,
        )
        raise SystemExit(EXIT_USER_ERROR)
    sys.__excepthook__(kind, error, traceback)


def _is_ours(module):
    top = _ROOT / str(module).partition(".")[0]
    return top.is_dir() or top.with_suffix(".py").is_file()


def _end():
    with contextlib.suppress(standard_streams.OutputError):
        sys.stdout.flush()
    error = standard_streams.lost()
    if error is None:
        return
    if error.exit_code != standard_streams.EXIT_BROKEN_PIPE:
        print(f"error: {error}", file=sys.stderr)
    # Nothing else gives another exit code now.
    os._exit(error.exit_code)
