"""The supported TensorFlows and Pythons and their locks, read from `locks/`.

Imports only the standard library.
"""

from __future__ import annotations

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
MATRIX = ROOT / "locks" / "matrix.txt"
_DEFAULT = "default"


def supported() -> dict[str, tuple[str, ...]]:
    """Returns {TensorFlow version: Python versions, such as "3.9"}, both ascending."""
    return {version: tuple(w for w in words if w != _DEFAULT) for version, *words in _rows()}


def default_tensorflow() -> str:
    """Returns the TensorFlow version that `make` installs by default."""
    return next(version for version, *words in _rows() if _DEFAULT in words)


def lock_path(tensorflow: str) -> pathlib.Path:
    """Returns the path of a TensorFlow version's lock."""
    return MATRIX.parent / f"tensorflow-{tensorflow}.txt"


def _rows():
    lines = (line.partition("#")[0].split() for line in MATRIX.read_text().splitlines())
    return [words for words in lines if words]
