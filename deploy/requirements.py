"""Which TensorFlows and Pythons are supported, and the lock of each: `locks/`.

Imports nothing but the standard library.
"""

from __future__ import annotations

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
MATRIX = ROOT / "locks" / "matrix.txt"
_DEFAULT = "default"


def supported() -> dict[str, tuple[str, ...]]:
    """Returns {TensorFlow version: its Python versions, "3.9" for example}, both ascending."""
    return {version: tuple(w for w in words if w != _DEFAULT) for version, *words in _rows()}


def default_tensorflow() -> str:
    """Returns the TensorFlow version that `make` installs."""
    return next(version for version, *words in _rows() if _DEFAULT in words)


def lock_path(tensorflow: str) -> pathlib.Path:
    """Returns the path of the lock of a TensorFlow version."""
    return MATRIX.parent / f"tensorflow-{tensorflow}.txt"


def _rows():
    lines = (line.partition("#")[0].split() for line in MATRIX.read_text().splitlines())
    return [words for words in lines if words]
