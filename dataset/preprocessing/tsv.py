"""Decodes blocks of Criteo TSV lines, and explains why a line is malformed.

A line is 40 tab-separated fields: label (0 or 1), 13 decimal int32 and 26 hexadecimal values of up
to 32 bits; the last 39 may be empty. Lines end in LF or CR LF.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dataset.preprocessing import native
from dataset.preprocessing.columns import DENSE, FIELDS, HEX_DIGITS, NAMES, Samples

#: The C++ decoder accepts up to 16 digits, leading zeros included.
_INTEGER = re.compile(rb"-?[0-9]{1,16}\Z")
_HEX = re.compile(rb"[0-9a-fA-F]+\Z")
_OTHER_SEPARATORS = ((b",", "commas"), (b";", "semicolons"), (b"|", "bars"), (b" ", "spaces"))
#: Occurrences in a line from which a character counts as its separator.
_MIN_SEPARATORS = FIELDS // 2


class Reject(NamedTuple):
    """A malformed line: number from 0 within the decoded text, reason, and its bytes."""

    line: int
    reason: str
    text: bytes


class DecodedLines(NamedTuple):
    """Result of `decode_lines`: valid samples, malformed lines, and the number of both."""

    samples: Samples
    rejects: list[Reject]
    lines: int


def decode_lines(text: bytes) -> DecodedLines:
    """Decodes complete lines.

    Args:
        text: complete lines, the last one ending in LF.

    Returns:
        DecodedLines. Valid samples keep the order of their lines.

    Raises:
        LibraryError: see `native.require`.
    """
    samples, bad_lines, lines = native.decode_lines(text)
    rejects = [
        Reject(number, explain(text[start:end]) or "malformed", text[start:end])
        for number, start, end in bad_lines
    ]
    return DecodedLines(samples, rejects, lines)


def explain(line: bytes) -> str | None:
    """Returns why a line (bytes without LF) is malformed; None if it is valid."""
    fields = (line[:-1] if line.endswith(b"\r") else line).split(b"\t")
    if len(fields) != FIELDS:
        found = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
        return f"{found}, expected {FIELDS}{_other_separator(fields)}"
    if fields[0] not in (b"0", b"1"):
        return f"label {_shown(fields[0])} is not 0 or 1"
    for name, field in zip(NAMES[1 : 1 + DENSE], fields[1:]):
        if field and not _INTEGER.match(field):
            return f"{name} {_shown(field)} is not an integer"
        if field and not -(2**31) <= int(field) < 2**31:
            return f"{name} {_shown(field)} does not fit 32 bits"
    for name, field in zip(NAMES[1 + DENSE :], fields[1 + DENSE :]):
        if field and not _HEX.match(field):
            return f"{name} {_shown(field)} is not hexadecimal"
        if len(field) > HEX_DIGITS:
            return f"{name} {_shown(field)} does not fit 32 bits"
    return None


def _other_separator(fields):
    """Returns an addition to the reason if another character than tab separates the fields."""
    if len(fields) == 1:
        for separator, name in _OTHER_SEPARATORS:
            if fields[0].count(separator) >= _MIN_SEPARATORS:
                return f" separated by tabs, found {name}"
    return ""


def _shown(field):
    text = field.decode("ascii", "backslashreplace")
    return repr(text if len(text) <= 40 else text[:40] + "...")
