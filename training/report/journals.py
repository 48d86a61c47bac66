"""Reads a run's folder: every line of its journal is checked before anything is drawn.

A run that was killed has no result.json, and its last line may be cut: both are no errors.
"""

import json
import pathlib

from training.errors import UserError

_NUMBER = (int, float)
# Fields that the report relies on, and the types that each may have.
_NEEDED = {
    "config": {"flags": dict, "versions": dict, "data": dict, "ranks": int, "steps": int},
    "step": {"time": _NUMBER, "step": int, "loss": (*_NUMBER, type(None)),
             "learning_rate": _NUMBER, "samples_per_second": _NUMBER},
    "evaluation": {"step": int, "auc": _NUMBER, "log_loss": _NUMBER, "samples": int,
                   "seconds": _NUMBER},
    "checkpoint": {"step": int, "path": str, "bytes": int, "seconds": _NUMBER,
                   "pause_seconds": _NUMBER},
    "memory": {"step": int, "peak_resident_bytes": int,
               "peak_gpu_bytes": (int, type(None))},
    "breakdown": {"phases": list, "step_milliseconds": _NUMBER,
                  "whole_milliseconds": _NUMBER},
    "message": {"text": str},
    "end": {"stopped_by": str, "steps": int},
}  # fmt: skip
# Whose "seconds" is a duration.
_LASTING = ("evaluation", "checkpoint")
_PHASE = {"name": str, "milliseconds": _NUMBER}


def read_journal(folder):
    """Reads and checks `folder`/journal.jsonl.

    Events of a kind that is not known are left out: a newer version may have written them. Journals
    of older versions have "seconds" for "time", and no time where "seconds" is a duration.

    Args:
        folder: a run's folder.

    Returns:
        (list of events as dictionaries, whether the last line was cut and left out).

    Raises:
        UserError: no such folder, no journal in it, a line that is no event, no "config" event, or
            a journal of another mode than training.
    """
    path = pathlib.Path(folder) / "journal.jsonl"
    lines = _bytes_of(pathlib.Path(folder), path).split(b"\n")
    cut = False
    events = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8"))
        except ValueError as error:
            if number == len(lines):  # no line end: the writer was killed
                cut = True
                break
            raise UserError(f"{path}: line {number}: damaged, not JSON: {error}") from error
        _check(record, f"{path}: line {number}")
        if record["event"] in _NEEDED:
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


def read_result(folder):
    """Returns the content of `folder`/result.json; None without one.

    Raises:
        UserError: the file is there and no result.
    """
    path = pathlib.Path(folder) / "result.json"
    try:
        result = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged, not JSON: {error}") from error
    _check_fields(result, _NEEDED["end"], f"{path}: the result")
    return result


def _bytes_of(folder, path):
    if not folder.exists():
        raise UserError(f"{folder}: no such folder; expected the folder of a run")
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; expected the folder of a run")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        inside = sorted(found.parent.name for found in folder.glob("*/journal.jsonl"))
        advice = f"; it holds runs: give {folder / inside[-1]}" if inside else ""
        raise UserError(f"{folder}: not a run: no journal.jsonl in it{advice}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def _check(record, where):
    if not isinstance(record, dict) or not isinstance(record.get("event"), str):
        raise UserError(f"{where}: damaged, not an event: expected an object with an 'event'")
    kind = record["event"]
    if "time" not in record and "seconds" in record and kind not in _LASTING:
        record["time"] = record.pop("seconds")
    _check_fields(record, _NEEDED.get(kind, {}), f"{where}: the {kind} event")
    if kind == "config":
        mode = record.get("mode", "train")
        if mode != "train":
            raise UserError(f"{where}: a run of --mode={mode}, expected one that trained")
        batch = record["flags"].get("global_batch_size")
        if type(batch) is not int or batch < 1:
            raise UserError(f"{where}: the config event's global_batch_size is {batch!r}")
    if kind == "breakdown":
        for phase in record["phases"]:
            _check_fields(phase, _PHASE, f"{where}: a phase of the breakdown event")


def _check_fields(record, needed, where):
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected an object, found {type(record).__name__}")
    for name, types in needed.items():
        if name not in record:
            raise UserError(f"{where} has no {name!r}")
        value = record[name]
        if isinstance(value, bool) or not isinstance(value, types):
            raise UserError(f"{where}: {name!r} is {str(value)[:60]!r}, which is of the wrong type")
