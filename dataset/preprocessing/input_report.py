"""Reports oddities of the input files: empty, possibly truncated, with a byte order mark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dataset.preprocessing.errors import InputError

if TYPE_CHECKING:
    from dataset.preprocessing.inputs import InputFile
    from dataset.preprocessing.parsing import Unit
    from dataset.preprocessing.stage_results import ParsedUnit


def check_not_empty(files: Sequence[InputFile], amounts: Sequence[int]) -> None:
    """Raises `InputError` if a day is empty, for instance after a failed download.

    Args:
        files: of all days.
        amounts: bytes or samples of each file.
    """
    days = {}
    for file, amount in zip(files, amounts):
        if file.day is not None:
            days.setdefault(file.day, []).append((file, amount))
    for day, of_day in days.items():
        if not any(amount for _, amount in of_day):
            more = f" (and {len(of_day) - 1} more files)" if len(of_day) > 1 else ""
            problem = (
                f"day {day}{more}: expected samples, found none; try to download the day again, or "
                "remove it from --train_days and --test_day"
            )
            raise InputError.of_path(of_day[0][0].path, problem, found=0)


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
    check_not_empty(files, rows)
    empty = [file.path for file, count in zip(files, lines) if count == 0]
    for path in empty:
        log(f"warning: {path}: is empty")
    for path in marked:
        log(f"{path}: skipped the byte order mark at its start")
    for index in unterminated:
        where = f"{files[index].path}:{lines[index]}"
        log(f"warning: {where}: the file ends without a line end (is it truncated?)")
    return {
        "files": len(files),
        "empty": empty,
        "without_final_newline": [files[index].path for index in unterminated],
        "byte_order_mark": marked,
    }
