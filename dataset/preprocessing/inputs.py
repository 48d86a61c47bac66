"""Finds the input files, their days and their order."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dataset.preprocessing.errors import InputError, OptionError
from storage.regular import open_regular

if TYPE_CHECKING:
    from dataset.preprocessing.options import Options

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
    day: int | None
    form: str
    compression: str
    size: int
    modified_ns: int

    @property
    def identity(self) -> list:
        """What tells this file from a changed one: path, size, time of the last change."""
        return [self.path, self.size, self.modified_ns]


def find_inputs(pattern: str) -> list[InputFile]:
    """Returns the InputFiles that a folder, file or glob names: by day, then by natural name order.

    Raises:
        InputError: nothing there, no regular readable file, or one day twice.
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
            # Spark and others leave _SUCCESS and hidden checksums beside their data.
            names = [name for name in _list(path) if not name.startswith((".", "_"))]
            files += [_describe(os.path.join(path, name), day) for name in names]
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


def _list(folder):
    try:
        return sorted(os.listdir(folder), key=_natural)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from error


def select_days(
    files: Sequence[InputFile], options: Options, say: Callable[[str], None]
) -> tuple[list[InputFile], list[InputFile]]:
    """Returns (training files, test files) as lists of InputFile; one list if split by rows.

    Raises:
        InputError: a day that was asked for is not there.
    """
    if options.test_fraction is not None:
        return list(files), []
    by_day = {}
    for file in files:
        by_day.setdefault(file.day, []).append(file)
    train_days = options.train_days or ()
    test_days = () if options.test_day is None else (options.test_day,)
    absent = [day for day in (*train_days, *test_days) if day not in by_day]
    if absent:
        have = ", ".join(str(day) for day in by_day if day is not None) or "none"
        raise InputError(
            f"--input {options.input}: no file for day {', '.join(map(str, absent))} "
            f"(days found: {have}); say --train_days and --test_day, or --test_fraction to split "
            f"by rows"
        )
    unused = sorted(set(by_day) - set(train_days) - set(test_days), key=str)
    if unused:
        say(f"not read, in neither --train_days nor --test_day: {', '.join(map(str, unused))}")
    train = [file for day in train_days for file in by_day[day]]
    return train, [file for day in test_days for file in by_day[day]]


def _folder(folder):
    names = _list(folder)
    for pattern in _FOLDER_PATTERNS:
        found = [name for name in names if pattern.match(name)]
        if found:
            return [os.path.join(folder, name) for name in found]
    shown = ", ".join(names[:5]) or "nothing"
    raise InputError(
        f"--input: {folder} holds no day_N, train.txt, *.parquet, *.tsv or *.txt file "
        f"(found {shown}); a glob in quotes names other files"
    )


def _natural(path):
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", path)]


def _day(path):
    match = _DAY.search(os.path.basename(path))
    return int(match.group(1)) if match else None


def _describe(path, day):
    path = os.path.abspath(path)
    try:
        path.encode()
    except UnicodeEncodeError as error:
        # Neither JSON nor Arrow can name such a file.
        raise InputError(f"{path!r}: the name is not text in UTF-8: rename the file") from error
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    extension = os.path.splitext(path)[1]
    form = "parquet" if extension == ".parquet" else "tsv"
    compression = _COMPRESSIONS.get(extension, "none")
    return InputFile(path, day, form, compression, status.st_size, status.st_mtime_ns)


def parse_days(text: str, flag: str) -> tuple[int, ...]:
    """Returns the sorted day numbers that text such as "0-22" or "0,2,5-7" names.

    Raises:
        OptionError: it is no list of days; names `flag`.
    """
    days = set()
    for piece in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", piece)
        if not match:
            raise OptionError(
                f"{flag}: expected numbers and ranges such as 0-22 or 0,2,5-7, found {text!r:.60}"
            )
        first, last = int(match.group(1)), int(match.group(2) or match.group(1))
        if first > last or last > 9999:
            raise OptionError(f"{flag}: {piece.strip()} is no range of days from 0 to 9999")
        days.update(range(first, last + 1))
    return tuple(sorted(days))
