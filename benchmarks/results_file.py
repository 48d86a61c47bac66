"""The JSON file of a benchmark's figures. It may only replace an earlier file of figures."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any, TypedDict

from storage import atomic, paths, structured
from storage.claim import check_replaceable


class _Report(TypedDict):
    benchmark: str


def target(text: str) -> str:
    """Returns a path that figures can be written to: a type for argparse.

    Raises:
        argparse.ArgumentTypeError: not a local path, a file that no benchmark wrote, or a folder
            that is not writable. Raised before anything is measured.
    """
    try:
        paths.check_local(text)
        check_replaceable(text, lambda: _is_report(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from error
    above = os.path.dirname(os.path.abspath(text))
    while not os.path.lexists(above):  # Missing folders are created.
        above = os.path.dirname(above)
    if not os.path.isdir(above) or not os.access(above, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text}: expected a writable folder, found {above}")
    return text


def write(path: str, benchmark: str, figures: Mapping[str, Any]) -> None:
    """Writes a benchmark's figures to a path that `target` checked; creates missing folders."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    atomic.write_json(path, {"benchmark": benchmark, **figures})


def _is_report(path: str) -> bool:
    try:
        structured.read_json(path, _Report)
    except (OSError, structured.StructureError):
        return False
    return True
