"""The journal: one stream of events from the training loop to the sinks that store or print them.

An event is a dictionary with its kind under "event" and the seconds since the journal was opened
under "time". `EVENTS` lists the kinds, docs/journal.md their fields. Only rank 0 has sinks:
they write files, draw the progress bar and print the final table.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from storage.atomic import encode_json, write_json
from storage.nonfinite import with_nulls
from training.runtime.errors import UserError

# The names that `new_run_folder` chooses.
_RUN_FOLDER = re.compile(r"\d{8}-\d{6}(-\d+)?")

#: docs/journal.md lists the fields of each.
EVENTS = frozenset({
    "config", "epoch", "step", "evaluation", "checkpoint", "memory", "breakdown", "latency",
    "message", "end",
})  # fmt: skip


class Sink(Protocol):
    """Stores or displays events."""

    def event(self, record: Mapping[str, Any]) -> None:
        """Handles one event."""

    def close(self) -> None:
        """Releases resources; called after the last event."""


class Journal:
    """Passes each event to all sinks, in their order."""

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        self._sinks = list(sinks)
        self._begin = time.perf_counter()

    def emit(self, event: str, **fields: Any) -> None:
        """Sends one event to all sinks.

        Args:
            event: one of `EVENTS`.
            **fields: JSON-serialisable values; numbers may be NaN or infinite.

        Raises:
            ValueError: `event` is not in `EVENTS`.
        """
        if event not in EVENTS:
            raise ValueError(f"unknown event {event!r}: expected one of {sorted(EVENTS)}")
        record = {"event": event, "time": time.perf_counter() - self._begin, **fields}
        for sink in self._sinks:
            sink.event(record)

    def close(self) -> None:
        """Closes all sinks."""
        for sink in self._sinks:
            sink.close()


class JsonLines:
    """Appends each event to `folder`/journal.jsonl; writes the "end" event to result.json too."""

    def __init__(self, folder: str | pathlib.Path) -> None:
        self._folder = pathlib.Path(folder)
        self._file = open(self._folder / "journal.jsonl", "a", encoding="utf-8")  # noqa: SIM115

    def event(self, record: Mapping[str, Any]) -> None:
        """Writes one line and flushes it, so that a killed run loses no event.

        Raises:
            UserError: a file cannot be written, for example on a full disk.
        """
        record = json.loads(with_nulls(json.dumps(record).encode()))
        try:
            self._file.write(encode_json(record, indent=None) + "\n")
            self._file.flush()
            if record["event"] == "end":
                result = {k: v for k, v in record.items() if k not in ("event", "time")}
                write_json(self._folder / "result.json", result, indent=2)
        except OSError as error:
            problem = f"cannot write the journal: {error.strerror}; try another --run_dir"
            raise UserError.of_path(self._folder, problem) from error

    def close(self) -> None:
        """Closes the file."""
        # `event` has already raised for what could not be written.
        with contextlib.suppress(OSError):
            self._file.close()


def new_run_folder(parent: str | pathlib.Path) -> pathlib.Path:
    """Creates `parent`/<time> and returns its path.

    Raises:
        OSError: the folder cannot be created.
    """
    parent = pathlib.Path(parent)
    parent.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        folder = parent / (stamp if attempt == 0 else f"{stamp}-{attempt}")
        try:
            folder.mkdir()
            break
        except FileExistsError:
            continue
    return folder


def update_latest_link(folder: pathlib.Path) -> bool:
    """Points the link `latest`, next to a run's folder, to that folder.

    Returns:
        False if `latest` exists and is not a link to a run; it is left unchanged.

    Raises:
        OSError: the link cannot be created.
    """
    latest = folder.parent / "latest"
    if os.path.lexists(latest) and not (
        latest.is_symlink() and _RUN_FOLDER.fullmatch(os.readlink(latest))
    ):
        return False
    link = folder / "latest"  # Renamed from here: no other process writes to this folder.
    link.symlink_to(folder.name)
    os.replace(link, latest)
    return True
