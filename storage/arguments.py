"""Argument types for argparse: numbers with a lower and an upper bound."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable

LARGEST_INTEGER = 2**31 - 1


def first_paragraph(doc: str | None) -> str:
    """Returns the first paragraph of a module's docstring; "" for None (`python3 -OO`)."""
    return (doc or "").partition("\n\n")[0]


def whole_number(least: int = 0, most: int = LARGEST_INTEGER) -> Callable[[str], int]:
    """Returns an argparse type: an integer in decimal digits from `least` to `most`."""

    def read(text: str) -> int:
        # int() accepts 1_0 and digits of other scripts, and refuses more than 4300 digits.
        value = int(text) if re.fullmatch(r"-?[0-9]{1,400}", text) else None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {least} to {most}, found {text[:60]!r}"
            )
        return value

    return read


def whole_numbers(least: int = 0, most: int = LARGEST_INTEGER) -> Callable[[str], list[int]]:
    """Returns an argparse type: comma-separated integers from `least` to `most`."""
    read = whole_number(least, most)
    return lambda text: [read(word) for word in text.split(",")]


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """Returns an argparse type: a finite number from `least` to `most`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not least <= value <= most:
            limit = "" if most == math.inf else f" and at most {most:g}"
            raise argparse.ArgumentTypeError(
                f"expected a number of at least {least:g}{limit}, found {text[:60]!r}"
            )
        return value

    return read
