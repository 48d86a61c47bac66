"""NaN and infinity, which JSON does not have, become null."""

from __future__ import annotations

import math
import re

# A string, or a number that JSON does not have. An unterminated string matches up to the end of
# the data, so that the time is linear.
_NOT_FINITE = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|-?Infinity|NaN', re.DOTALL)


def finite_or_none(value: float) -> float | None:
    """Returns `value`, or None if it is NaN or infinite."""
    return value if math.isfinite(value) else None


def with_nulls(data: bytes) -> bytes:
    """Returns a JSON text with its NaN, Infinity and -Infinity replaced by null.

    Earlier releases wrote these into journals, results and manifests.
    """
    if b"NaN" not in data and b"Infinity" not in data:
        return data
    return _NOT_FINITE.sub(lambda m: m[0] if m[0].startswith(b'"') else b"null", data)
