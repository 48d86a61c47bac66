"""Numbers that are not finite, which JSON does not have: null stands for them."""

import math
import re
from typing import Any

# A text, or a number that is none in JSON. A text without an end goes to the end of the data, so
# that nothing is looked at twice.
_NOT_FINITE = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|-?Infinity|NaN', re.DOTALL)


def finite(value: Any) -> Any:
    """Returns a JSON-serialisable value with None for each number that is NaN or infinite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return value


def with_nulls(data: bytes) -> bytes:
    """Returns what Python's `json` wrote, with null for its NaN, Infinity and -Infinity.

    Older versions wrote these into journals, results and manifests.

    Args:
        data: the text, as bytes.
    """
    if b"NaN" not in data and b"Infinity" not in data:
        return data
    return _NOT_FINITE.sub(lambda m: m[0] if m[0].startswith(b'"') else b"null", data)
