"""Finds the input files, their days and their order."""

import glob
import os
import re
from typing import NamedTuple, Optional

from dataset.preprocessing.errors import InputError, OptionError

_DAY = re.compile(r"day[_-]?(\d+)(?=$|[._])")
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
#: What is looked for in a folder, in this order; the first kind that is found is taken.
_FOLDER_PATTERNS = (
    re.compile(r"day[_-]?\d+(\.(tsv|txt|csv))?(\.gz|\.zst)?$|day[_-]?\d+\.parquet$"),
    re.compile(r"train\.(txt|tsv)(\.gz|\.zst)?$"),
    re.compile(r".+\.parquet$"),
    re.compile(r".+\.(tsv|txt)(\.gz|\.zst)?$"),
)


class InputFile(NamedTuple):
    """One input file.

    Attributes:
        path: absolute path.
        day: its day number, or None (Kaggle's train.txt).
        form: "tsv" or "parquet".
        compression: "none", "gzip" or "zstd"; of a TSV file.
        size: bytes.
        modified_ns: time of the last change, in nanoseconds since the epoch.
    """

    path: str
    day: Optional[int]
    form: str
    compression: str
    size: int
    modified_ns: int

    @property
    def identity(self):
        """What tells this file from a changed one: path, size, time of the last change."""
        return [self.path, self.size, self.modified_ns]


def find_inputs(pattern):
    """Returns the InputFiles that a folder, file or glob names: by day, then by natural name order.

    Raises:
        InputError: nothing there, nothing readable, or one day twice.
    """
    if os.path.isdir(pattern):
        paths = _folder(pattern)
    else:
        paths = sorted(glob.glob(pattern))
        if not paths:
            raise InputError(f"--input: nothing matches {pattern!r}")
    files = []
    for path in paths:
        day = _day(path)
        if os.path.isdir(path):
            parts = [os.path.join(path, name) for name in sorted(os.listdir(path), key=_natural)]
            files += [_describe(part, day) for part in parts if _is_data(part)]
        else:
            files.append(_describe(path, day))
    if not files:
        raise InputError(f"--input: {pattern} holds no data file")
    days = {}
    for path in paths:
        day = _day(path)
        if day is not None and days.setdefault(day, path) != path:
            raise InputError(f"--input: day {day} is there twice: {days[day]} and {path}")
    return sorted(files, key=lambda f: (f.day is None, f.day or 0, _natural(f.path)))


def _folder(folder):
    names = sorted(os.listdir(folder), key=_natural)
    for pattern in _FOLDER_PATTERNS:
        found = [name for name in names if pattern.match(name)]
        if found:
            return [os.path.join(folder, name) for name in found]
    shown = ", ".join(names[:5]) or "nothing"
    raise InputError(
        f"--input: {folder} holds no day_N, train.txt, *.parquet, *.tsv or *.txt file "
        f"(found {shown}); a glob in quotes names other files"
    )


def _is_data(path):
    return os.path.isfile(path) and not os.path.basename(path).startswith((".", "_"))


def _natural(path):
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", path)]


def _day(path):
    match = _DAY.search(os.path.basename(path))
    return int(match.group(1)) if match else None


def _describe(path, day):
    path = os.path.abspath(path)
    try:
        status = os.stat(path)
        with open(path, "rb"):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    extension = os.path.splitext(path)[1]
    form = "parquet" if extension == ".parquet" else "tsv"
    compression = _COMPRESSIONS.get(extension, "none")
    return InputFile(path, day, form, compression, status.st_size, status.st_mtime_ns)


def parse_days(text):
    """Returns the sorted day numbers that text such as "0-22" or "0,2,5-7" names."""
    days = set()
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", piece)
        if not match:
            raise OptionError(f"days {text!r}: expected numbers and ranges such as 0-22 or 0,2,5-7")
        first, last = int(match.group(1)), int(match.group(2) or match.group(1))
        if first > last or last > 9999:
            raise OptionError(f"days {text!r}: {piece.strip()} is no range of days")
        days.update(range(first, last + 1))
    return tuple(sorted(days))
