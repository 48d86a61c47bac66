"""Reads a run's folder and validates every line of its journal."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from storage.nonfinite import with_nulls
from storage.regular import open_regular
from storage.structured import StructureError, check_shape, parse_json
from training.runtime.errors import UserError
from training.telemetry.report import shapes

# Limit of a journal line and of result.json.
_MAX_BYTES = 16 << 20
# Events whose "seconds" is a duration.
_LASTING = ("evaluation", "checkpoint")


def read_journal(folder: str | os.PathLike) -> tuple[list[dict[str, Any]], bool]:
    """Reads and checks `folder`/journal.jsonl.

    Unknown kinds of events are skipped: a newer version may have written them. Journals of older
    versions have "seconds" instead of "time", no time in events where "seconds" is a duration, and
    the invalid JSON words NaN and Infinity instead of null. Null AUCs and log losses of evaluations
    are returned as NaN.

    Args:
        folder: a run's folder.

    Returns:
        (events, whether the last line was truncated and skipped).

    Raises:
        UserError: the folder or journal does not exist, a line is not a valid event, there is no
            "config" event, or the job did not train.
    """
    path = pathlib.Path(folder) / "journal.jsonl"
    cut = False
    events = []
    for number, line in _lines(pathlib.Path(folder), path):
        if not line.strip():
            continue
        try:
            record = parse_json(with_nulls(line), f"{path}: line {number}", shapes.Event)
        except StructureError as error:
            if not line.endswith(b"\n"):  # The writer was killed.
                cut = True
                break
            raise UserError(f"{error}; the line is damaged", **_at(path, number, error)) from error
        record = _checked(record, path, number)
        if record["event"] in shapes.EVENTS:
            events.append(record)
    kinds = [record["event"] for record in events]
    if "config" not in kinds:
        problem = f"no config event in {len(events)} events: the run ended before its first step"
        raise UserError.of_path(path, problem, expected="config", found=len(events))
    early = set(kinds[: kinds.index("config")]) - {"message"}
    if early:
        problem = f"expected a config event first, found {min(early)}"
        raise UserError.of_path(path, problem, expected="config", found=min(early))
    return events, cut


def read_result(folder: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the content of `folder`/result.json, or None if there is no such file.

    Raises:
        UserError: the file cannot be read or is not a result.
    """
    path = pathlib.Path(folder) / "result.json"
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError.of_path(path, str(error.strerror)) from error
    if len(data) > _MAX_BYTES:
        problem = f"expected at most {_MAX_BYTES} bytes, found more"
        raise UserError.of_path(path, problem, bound=_MAX_BYTES)
    try:
        return parse_json(with_nulls(data), str(path), shapes.Result)
    except StructureError as error:
        raise UserError.of(error) from error


def _at(path: pathlib.Path, line: int, error: StructureError) -> dict[str, Any]:
    """Returns a structure error's fields, with its origin as path and line number."""
    return {**error.fields, "path": path, "line": line}


def _lines(folder: pathlib.Path, path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """Yields (number, line) of a journal, numbers from 1."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise UserError.of_path(folder, f"expected the folder of a run, found {found}")
    try:
        with open_regular(path) as file:
            number = 0
            while line := file.readline(_MAX_BYTES + 1):
                number += 1
                if len(line) > _MAX_BYTES:
                    problem = f"line {number}: expected at most {_MAX_BYTES} bytes, found more"
                    raise UserError.of_path(path, problem, line=number, bound=_MAX_BYTES)
                yield number, line
    except FileNotFoundError:
        runs = sorted(journal.parent for journal in folder.glob("*/journal.jsonl"))
        advice = f"; try {runs[-1]}" if runs else ""
        problem = f"not a run: it has no journal.jsonl{advice}"
        raise UserError.of_path(folder, problem, expected=runs[-1] if runs else None) from None
    except OSError as error:
        raise UserError.of_path(path, str(error.strerror)) from error


def _checked(record: dict[str, Any], path: pathlib.Path, line: int) -> dict[str, Any]:
    """Returns a validated event in the format of the newest version."""
    kind = record["event"]
    if "time" not in record and "seconds" in record and kind not in _LASTING:
        record["time"] = record.pop("seconds")
    mode = record.get("mode", "train")
    if kind == "config" and mode != "train":
        mode = str(mode)[:60]
        problem = f"line {line}: expected a run of --mode=train, found --mode={mode}"
        raise UserError.of_path(path, problem, line=line, expected="train", found=mode)
    if kind in shapes.EVENTS:
        try:
            check_shape(record, f"{path}: line {line}", shapes.EVENTS[kind])
        except StructureError as error:
            raise UserError(f"{error} (in a {kind} event)", **_at(path, line, error)) from error
    if kind == "evaluation":
        for name in ("auc", "log_loss"):
            record[name] = math.nan if record[name] is None else record[name]
    return record
