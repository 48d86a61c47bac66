"""Reads a run's folder: every line of its journal is checked before anything is drawn.

A run that was killed has no result.json, and its last line may be cut: both are no errors.
"""

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

# A line of a journal, and result.json: their largest parts are flags and vocabulary sizes.
_MOST_BYTES = 16 << 20
# Whose "seconds" is a duration.
_LASTING = ("evaluation", "checkpoint")


def read_journal(folder: str | os.PathLike) -> tuple[list[dict[str, Any]], bool]:
    """Reads and checks `folder`/journal.jsonl.

    Events of a kind that is not known are left out: a newer version may have written them. Journals
    of older versions have "seconds" for "time", and no time where "seconds" is a duration; and NaN
    and Infinity, which are no JSON, where there is a null now. An evaluation's AUC and log loss are
    NaN in the returned events where they are null in the file.

    Args:
        folder: a run's folder.

    Returns:
        (list of events as dictionaries, whether the last line was cut and left out).

    Raises:
        UserError: no such folder, no journal in it, a line that is no event, no "config" event, or
            a journal of another mode than training.
    """
    path = pathlib.Path(folder) / "journal.jsonl"
    cut = False
    events = []
    for number, line in _lines(pathlib.Path(folder), path):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            record = parse_json(with_nulls(line), where, shapes.Event)
        except StructureError as error:
            if not line.endswith(b"\n"):  # the writer was killed
                cut = True
                break
            raise UserError(f"{error}; the line is damaged") from error
        record = _checked(record, where)
        if record["event"] in shapes.EVENTS:
            events.append(record)
    kinds = [record["event"] for record in events]
    if "config" not in kinds:
        raise UserError(
            f"{path}: no config event in {len(events)} events: the run ended before its first step"
        )
    early = set(kinds[: kinds.index("config")]) - {"message"}
    if early:
        raise UserError(f"{path}: {min(early)} event before the first config event")
    return events, cut


def read_result(folder: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the content of `folder`/result.json; None without one.

    Raises:
        UserError: the file is there and no result.
    """
    path = pathlib.Path(folder) / "result.json"
    try:
        with open_regular(path) as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise UserError(f"{path}: expected at most {_MOST_BYTES} bytes, found more")
    try:
        return parse_json(with_nulls(data), str(path), shapes.Result)
    except StructureError as error:
        raise UserError(str(error)) from error


def _lines(folder: pathlib.Path, path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """Yields (number, line) of a journal."""
    if not folder.exists():
        raise UserError(f"{folder}: no such folder; expected the folder of a run")
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; expected the folder of a run")
    try:
        with open_regular(path) as file:
            number = 0
            while line := file.readline(_MOST_BYTES + 1):
                number += 1
                if len(line) > _MOST_BYTES:
                    raise UserError(
                        f"{path}: line {number}: expected at most {_MOST_BYTES} bytes, found more"
                    )
                yield number, line
    except FileNotFoundError:
        inside = sorted(found.parent.name for found in folder.glob("*/journal.jsonl"))
        advice = f"; it holds runs: give {folder / inside[-1]}" if inside else ""
        raise UserError(f"{folder}: not a run: no journal.jsonl in it{advice}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def _checked(record: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns an event, checked and in the form of the newest version."""
    kind = record["event"]
    if "time" not in record and "seconds" in record and kind not in _LASTING:
        record["time"] = record.pop("seconds")
    mode = record.get("mode", "train")
    if kind == "config" and mode != "train":
        raise UserError(f"{where}: a run of --mode={str(mode)[:60]}, expected one that trained")
    if kind in shapes.EVENTS:
        try:
            check_shape(record, where, shapes.EVENTS[kind])
        except StructureError as error:
            raise UserError(f"{error} (the {kind} event)") from error
    if kind == "evaluation":
        for name in ("auc", "log_loss"):
            record[name] = math.nan if record[name] is None else record[name]
    return record
