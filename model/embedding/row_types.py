"""The types that rows of embedding tables are stored in. No TensorFlow is imported."""

from __future__ import annotations

# Bytes of one value, by TensorFlow's name of the type. The kernels' side of a row type is listed in
# docs/embedding.md.
ROW_TYPES: dict[str, int] = {"float32": 4}

DEFAULT = "float32"
