"""Decodes blocks of Criteo TSV lines; says which lines are malformed, and why.

A line is 40 tab-separated fields: label (0 or 1), 13 decimal int32 and 26 hexadecimal values of up
to 32 bits; the last 39 may be empty. Lines end in LF or CR LF.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from dataset.preprocessing import native
from dataset.preprocessing.columns import CATEGORICAL, DENSE, FIELDS, NAMES, Samples
from dataset.preprocessing.fields import PADDING, ByteBlock, decode_hex, decode_integers

_TAB, _LF, _CR = b"\t\n\r"
_INTEGER = re.compile(rb"-?[0-9]{1,16}\Z")
_HEX = re.compile(rb"[0-9a-fA-F]+\Z")
_OTHER_SEPARATORS = ((b",", "commas"), (b";", "semicolons"), (b"|", "bars"), (b" ", "spaces"))
#: So many of them in a line are no accident.
_MANY = FIELDS // 2


class Reject(NamedTuple):
    """A malformed line: number from 0 within what was decoded, reason, and its bytes."""

    line: int
    reason: str
    text: bytes


class DecodedLines(NamedTuple):
    """What `decode_lines` found: good samples, malformed lines, and the count of both."""

    samples: Samples
    rejects: list[Reject]
    lines: int


def decode_lines(text: bytes | memoryview) -> DecodedLines:
    """Decodes whole lines.

    Args:
        text: bytes-like of complete lines, the last one ending in LF.

    Returns:
        DecodedLines. Good samples keep the order of their lines.
    """
    kernels = native.load()
    if kernels is None:
        return decode_lines_with_numpy(text)
    samples, bad_lines, lines = native.decode_lines(kernels, text)
    return DecodedLines(samples, _rejects(np.frombuffer(text, np.uint8), bad_lines), lines)


def decode_lines_with_numpy(text: bytes | memoryview) -> DecodedLines:
    """Does what `decode_lines` does, with NumPy alone."""
    block = ByteBlock(text)
    # Tab and LF are neighbours (9, 10), so one unsigned comparison finds both.
    separators = np.flatnonzero((block.bytes - np.uint8(_TAB)) < 2)
    line_ends = block.bytes.take(separators) == _LF
    lines, odd = divmod(separators.size, FIELDS)
    regular = line_ends[FIELDS - 1 :: FIELDS]
    if odd == 0 and regular.all() and int(np.count_nonzero(line_ends)) == lines:
        numbers = None  # Every line has 40 fields: line i is row i of `ends`.
        ends = separators.reshape(lines, FIELDS)
        first = np.empty(lines, np.int64)
        first[:1] = PADDING
        first[1:] = ends[:-1, -1] + 1
        bad_lines = []
    else:
        last = np.flatnonzero(line_ends)
        counts = np.diff(last, prepend=-1)
        lines = last.size
        numbers = np.flatnonzero(counts == FIELDS)
        ends = separators[last[numbers][:, None] + np.arange(1 - FIELDS, 1)]
        line_starts = np.concatenate([[PADDING], separators[last[:-1]] + 1])
        first = line_starts[numbers]
        bad_lines = [
            (int(i), int(line_starts[i]), int(separators[last[i]]))
            for i in np.flatnonzero(counts != FIELDS)
        ]
    samples, valid = _decode_fields(block, first, np.ascontiguousarray(ends.T))
    if not valid.all():
        for row in np.flatnonzero(~valid):
            number = int(row) if numbers is None else int(numbers[row])
            bad_lines.append((number, int(first[row]), int(ends[row, -1])))
        samples = samples.keep(valid)
    return DecodedLines(samples, _rejects(block.bytes, sorted(bad_lines)), lines)


def _rejects(text, bad_lines):
    """Returns the Rejects of (line number, start, end) in uint8 `text`."""
    return [
        Reject(number, explain(line) or "malformed", line)
        for number, start, end in bad_lines
        for line in [text[start:end].tobytes()]
    ]


def _decode_fields(block, first, ends):
    """Decodes fields that end at int64 [40, n] `ends` of lines that begin at `first`."""
    n = first.size
    samples = Samples.empty(n)
    carriage_return = block.bytes.take(ends[-1] - 1) == _CR
    last_ends = ends[-1] - carriage_return if carriage_return.any() else ends[-1]
    samples.label[:], present, valid = decode_integers(block, first, ends[0])
    valid &= present
    valid &= (samples.label >> 1) == 0
    # "00", "01" and "-0" are numbers too, but no label that anybody writes.
    valid &= ends[0] - first == 1
    for i in range(DENSE):
        field = 1 + i
        values, present, good = decode_integers(block, ends[field - 1] + 1, ends[field])
        samples.dense[i], samples.dense_present[i] = values, present
        valid &= good
    for i in range(CATEGORICAL):
        field = 1 + DENSE + i
        field_ends = ends[field] if field < FIELDS - 1 else last_ends
        values, present, good = decode_hex(block, ends[field - 1] + 1, field_ends)
        samples.values[i], samples.present[i] = values, present
        valid &= good
    return samples, valid


def explain(line: bytes) -> str | None:
    """Returns why one line (bytes without LF) is malformed, or None if it is good."""
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
        if len(field) > 8:
            return f"{name} {_shown(field)} does not fit 32 bits"
    return None


def _other_separator(fields):
    """Returns what to add for a line whose fields something else than tabs separates."""
    if len(fields) == 1:
        for separator, name in _OTHER_SEPARATORS:
            if fields[0].count(separator) >= _MANY:
                return f" separated by tabs, found {name}"
    return ""


def _shown(field):
    text = field.decode("ascii", "backslashreplace")
    return repr(text if len(text) <= 40 else text[:40] + "...")
