"""The start of every program of this project, before it imports any third-party package."""

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
    """Protects the standard streams, and reports two common failures in one line each.

    These are a package that is not installed and a standard output that cannot be written.
    """
    standard_streams.protect()
    sys.excepthook = _report
    # Registered first, it runs last: nothing is printed after it.
    atexit.register(_end)


def _report(kind, error, traceback):
    if isinstance(error, standard_streams.OutputError):
        return  # `_end` reports it.
    if isinstance(error, ModuleNotFoundError) and not _is_ours(error.name):
        # Inside an environment, it is an optional package that few programs need.
        advice = (
            "activate the environment that `make venv` creates (source .venv/bin/activate)"
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
    error = standard_streams.output_error()
    if error is None:
        return
    if error.exit_code != standard_streams.EXIT_BROKEN_PIPE:
        print(f"error: {error}", file=sys.stderr)
    # At this point only `os._exit` can change the exit code.
    os._exit(error.exit_code)
