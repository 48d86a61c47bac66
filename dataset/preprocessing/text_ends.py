"""The two ends of a TSV file: a byte order mark at its start, a last line without a line end."""

from __future__ import annotations

import re

from dataset.preprocessing.columns import CATEGORICAL_NAMES, HEX_DIGITS
from dataset.preprocessing.errors import InputError
from dataset.preprocessing.tsv import DecodedLines, Reject, decode_lines

_UTF8_MARK = b"\xef\xbb\xbf"
#: First bytes of files that are not UTF-8 text; what they are; what to do. UTF-32 comes before
#: UTF-16, whose mark is a prefix of a UTF-32 mark.
_FOREIGN = (
    (b"\xff\xfe\0\0", "text in UTF-32", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"\0\0\xfe\xff", "text in UTF-32", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "text in UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\x1f\x8b", "gzip data", "give it a name that ends in .gz"),
    (b"\x28\xb5\x2f\xfd", "zstd data", "give it a name that ends in .zst"),
    (b"PAR1", "a Parquet file", "give it a name that ends in .parquet"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"BZh", "bzip2 data", "unpack it"),
)
_COMPLETE_VALUE = re.compile(rb"[0-9a-fA-F]{%d}\Z" % HEX_DIGITS)


def without_mark(text: bytes, path: str) -> tuple[bytes, bool]:
    """Removes a UTF-8 byte order mark from the first bytes of a file.

    Returns:
        (the remaining text, whether there was a mark).

    Raises:
        InputError: the file is not UTF-8 text.
    """
    for mark, what, remedy in _FOREIGN:
        if text.startswith(mark):
            problem = f"expected TSV text in ASCII or UTF-8, found {what}; {remedy}"
            raise InputError.of_path(path, problem, found=what)
    found = text.startswith(_UTF8_MARK)
    return (text[len(_UTF8_MARK) :] if found else text), found


def decode_unterminated(text: bytes) -> DecodedLines:
    """Same as `decode_lines`, for text whose last line has no line end in the file.

    Such a file may be truncated, possibly within its last value: 12345 of 12345678. Therefore the
    last line is malformed unless its last field has eight digits, as all of Criteo's values have.

    Args:
        text: complete lines; the last LF is not in the file.
    """
    decoded = decode_lines(text)
    line = text[text.rfind(b"\n", 0, len(text) - 1) + 1 : -1]
    number = decoded.lines - 1
    if decoded.rejects and decoded.rejects[-1].line == number:
        last = decoded.rejects[-1]
        reason = f"{last.reason}; the file ends here without a line end (is it truncated?)"
        return decoded._replace(rejects=[*decoded.rejects[:-1], last._replace(reason=reason)])
    field = line.rpartition(b"\t")[2]
    # A carriage return ends the line as well as its field.
    if _COMPLETE_VALUE.match(field) or field.endswith(b"\r"):
        return decoded
    reason = (
        f"{CATEGORICAL_NAMES[-1]} {field.decode()!r} may be truncated: expected {HEX_DIGITS} "
        "digits, since the file ends here without a line end"
    )
    samples = decoded.samples[:-1]
    return DecodedLines(samples, [*decoded.rejects, Reject(number, reason, line)], decoded.lines)
