"""Reports oddities of the input files: empty, possibly truncated, with a byte order mark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dataset.preprocessing.errors import InputError

if TYPE_CHECKING:
    from dataset.preprocessing.inputs import InputFile
    from dataset.preprocessing.parsing import Unit
    from dataset.preprocessing.stage_results import ParsedUnit


def check_not_empty(files: Sequence[InputFile]) -> None:
    """Raises `InputError` if all files of a day are empty, for instance after a failed download."""
    for day, of_day in _by_day(files).items():
        if not any(file.size for file in of_day):
            raise _empty_day(day, of_day)


def build(
    files: Sequence[InputFile],
    units: Sequence[Unit],
    parsed: Sequence[ParsedUnit],
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Returns the report on the input files.

    Args:
        files: in input order.
        units: in input order.
        parsed: results of the units.
        log: called with each line for the user.

    Returns:
        dict of JSON types: `files` (their number), `empty`, `without_final_newline` and
        `byte_order_mark` (paths).

    Raises:
        InputError: a day has no sample.
    """
    lines, rows = [0] * len(files), [0] * len(files)
    marked, unterminated = [], []
    for unit, result in zip(units, parsed):
        lines[unit.file_index] += result["lines"]
        rows[unit.file_index] += result["rows"]
        if result["byte_order_mark"]:
            marked.append(unit.file.path)
        if result["unterminated"]:
            unterminated.append(unit.file_index)
    rows_of = dict(zip(files, rows))
    for day, of_day in _by_day(files).items():
        if not any(rows_of[file] for file in of_day):
            raise _empty_day(day, of_day)
    empty = [file.path for file, count in zip(files, lines) if count == 0]
    for path in empty:
        log(f"warning: {path}: is empty")
    for path in marked:
        log(f"{path}: skipped the byte order mark at its start")
    for index in unterminated:
        log(
            f"warning: {files[index].path}:{lines[index]}: the file ends without a line end "
            "(is it truncated?)"
        )
    return {
        "files": len(files),
        "empty": empty,
        "without_final_newline": [files[index].path for index in unterminated],
        "byte_order_mark": marked,
    }


def _by_day(files):
    days = {}
    for file in files:
        if file.day is not None:
            days.setdefault(file.day, []).append(file)
    return days


def _empty_day(day, of_day):
    paths = [file.path for file in of_day]
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return InputError(
        f"{', '.join(paths[:3])}{more}: day {day}: expected samples, found none; try to download "
        "the day again, or remove it from --train_days and --test_day",
        path=paths[0], expected=1, found=0,
    )  # fmt: skip
