"""The types of embedding rows. Does not import TensorFlow."""

from __future__ import annotations

# {TensorFlow's name of the type: bytes of one value}; docs/embedding.md lists the kernels' part.
ROW_TYPES: dict[str, int] = {"float32": 4}

DEFAULT = "float32"
