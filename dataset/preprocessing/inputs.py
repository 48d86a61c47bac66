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
#: Kinds of data files in a folder; the first kind that has any is the input.
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
        day: day number; None for Kaggle's train.txt.
        form: "tsv" or "parquet".
        compression: of a TSV file: "none", "gzip" or "zstd".
        size: bytes.
        modified_ns: modification time in nanoseconds since the epoch.
    """

    path: str
    day: int | None
    form: str
    compression: str
    size: int
    modified_ns: int

    @property
    def identity(self) -> list:
        """Path, size and modification time: differ if the file was changed."""
        return [self.path, self.size, self.modified_ns]


def find_inputs(pattern: str) -> list[InputFile]:
    """Returns the InputFiles of a folder, file or glob, sorted by day, then by natural name order.

    Raises:
        InputError: there are none, one is not a readable regular file, or a day occurs twice.
    """
    if os.path.isdir(pattern):
        paths = _folder(pattern)
    else:
        paths = sorted(glob.glob(pattern))
        if not paths:
            raise InputError(f"--input: no file matches {pattern!r}", flag="input", path=pattern)
    files = []
    for path in paths:
        day = _day(path)
        if os.path.isdir(path):
            # Spark and others write _SUCCESS and hidden checksum files next to their data.
            names = [name for name in _list(path) if not name.startswith((".", "_"))]
            files += [_describe(os.path.join(path, name), day) for name in names]
        else:
            files.append(_describe(path, day))
    if not files:
        raise InputError(f"--input: {pattern}: found no data file", flag="input", path=pattern)
    days = {}
    for path in paths:
        day = _day(path)
        if day is not None and days.setdefault(day, path) != path:
            problem = f"expected one path per day, found two for day {day}: {days[day]}, {path}"
            raise InputError(f"--input: {problem}", flag="input", path=path, found=day)
    return sorted(files, key=lambda f: (f.day is None, f.day or 0, _natural(f.path)))


def _list(folder):
    try:
        return sorted(os.listdir(folder), key=_natural)
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(path, error):
    return InputError.of_path(path, f"cannot be read: {error.strerror}")


def select_days(
    files: Sequence[InputFile], options: Options, log: Callable[[str], None]
) -> tuple[list[InputFile], list[InputFile]]:
    """Returns (training files, test files); (all files, []) for a split by rows.

    Raises:
        InputError: there is no file for one of the days.
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
            f"--input {options.input}: expected a file for day {', '.join(map(str, absent))}, "
            f"found days {have}; try other --train_days and --test_day, or --test_fraction to "
            "split by rows",
            flag="input", path=options.input, expected=absent, found=list(by_day),
        )  # fmt: skip
    unused = sorted(set(by_day) - set(train_days) - set(test_days), key=str)
    if unused:
        log(f"ignored days, in neither --train_days nor --test_day: {', '.join(map(str, unused))}")
    train = [file for day in train_days for file in by_day[day]]
    return train, [file for day in test_days for file in by_day[day]]


def _folder(folder):
    names = _list(folder)
    for pattern in _FOLDER_PATTERNS:
        found = [name for name in names if pattern.match(name)]
        if found:
            return [os.path.join(folder, name) for name in found]
    shown = ", ".join(names[:5]) or "nothing"
    problem = (
        f"expected a day_N, train.txt, *.parquet, *.tsv or *.txt file, found {shown}; try a quoted "
        "glob for other file names"
    )
    raise InputError.of_flag("input", folder, problem, path=folder)


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
        # Neither JSON nor Arrow can represent such a name.
        problem = "expected a file name in UTF-8; rename the file"
        raise InputError(f"{path!r}: {problem}", path=path) from error
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
    except OSError as error:
        raise _unreadable(path, error) from error
    extension = os.path.splitext(path)[1]
    form = "parquet" if extension == ".parquet" else "tsv"
    compression = _COMPRESSIONS.get(extension, "none")
    return InputFile(path, day, form, compression, status.st_size, status.st_mtime_ns)


def parse_days(text: str, flag: str) -> tuple[int, ...]:
    """Returns the sorted day numbers of a text such as "0-22" or "0,2,5-7".

    Args:
        text: the text.
        flag: the flag that it comes from, without dashes, for errors.

    Raises:
        OptionError: the text is not a list of days.
    """
    days = set()
    for piece in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", piece)
        if not match:
            problem = "expected numbers and ranges such as 0-22 or 0,2,5-7"
            raise OptionError.of_flag(flag, text, problem)
        first, last = int(match.group(1)), int(match.group(2) or match.group(1))
        if first > last or last > 9999:
            problem = "expected an ascending range of days from 0 to 9999"
            raise OptionError.of_flag(flag, piece.strip(), problem, bound=9999)
        days.update(range(first, last + 1))
    return tuple(sorted(days))
