"""One stream of events from the training loop to whatever shows or keeps them.

Events are plain dictionaries with an "event" key and a "time" key, the seconds since the journal
was begun; `EVENTS` lists the kinds and their fields, docs/journal.md describes each. The loop emits
them on rank 0 alone; sinks write files, draw the progress bar, print the final table.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from storage.atomic import encode_json, write_json
from storage.nonfinite import finite
from training.runtime.errors import UserError

# Names of the folders that `new_run_folder` makes.
_RUN_FOLDER = re.compile(r"\d{8}-\d{6}(-\d+)?")

EVENTS = {
    "config": "flags, versions, data, ranks, steps, steps_per_epoch, schedule, resumed_from_step: "
    "once, before the first step",
    "epoch": "epoch (from 0), step (the last one before it)",
    "step": "step, epoch, loss (mean since the last such event), learning_rate, seconds_per_step, "
    "samples_per_second; skipped_steps and loss_scale where steps may be left out",
    "evaluation": "step, auc, log_loss, samples, seconds",
    "checkpoint": "step, path, bytes, seconds (until it was whole), pause_seconds (of training)",
    "memory": "step, peak_resident_bytes (of rank 0), peak_gpu_bytes (None without a GPU)",
    "breakdown": "phases ([{name, milliseconds}], in order), step_milliseconds (their sum), "
    "whole_milliseconds (a step that is not taken apart)",
    "latency": "one row of --mode=inference_benchmark: batch, calls, mean_ms, p50_ms, p90_ms, "
    "p95_ms, p99_ms, samples_per_second",
    "message": "text",
    "end": "the content of result.json",
}


class Sink(Protocol):
    """What keeps or shows events."""

    def event(self, record: Mapping[str, Any]) -> None:
        """Takes one event; `EVENTS` lists its fields."""

    def close(self) -> None:
        """Is called after the last event."""


class Journal:
    """Hands each event to all sinks.

    Args:
        sinks: each gets every event, in this order.
    """

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        self._sinks = list(sinks)
        self._begin = time.perf_counter()

    def emit(self, event: str, **fields: Any) -> None:
        """Sends one event.

        Args:
            event: one of `EVENTS`.
            **fields: JSON-serialisable values; a number in them may be NaN or infinite.
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
    """Appends each event to `journal.jsonl`, and writes the last one to `result.json`.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str | pathlib.Path) -> None:
        self._folder = pathlib.Path(folder)
        self._file = open(self._folder / "journal.jsonl", "a", encoding="utf-8")  # noqa: SIM115

    def event(self, record: Mapping[str, Any]) -> None:
        """Writes one line and flushes it, so that a killed run loses none.

        Raises:
            UserError: the folder cannot be written, such as on a full disk.
        """
        try:
            self._file.write(encode_json(finite(record), indent=None) + "\n")
            self._file.flush()
            if record["event"] == "end":
                result = {k: v for k, v in record.items() if k not in ("event", "time")}
                write_json(self._folder / "result.json", finite(result), indent=2)
        except OSError as error:
            raise UserError(
                f"run folder {self._folder}: cannot be written: {error.strerror}"
            ) from error

    def close(self) -> None:
        """Closes the file."""
        # What an event could not write has been said then.
        with contextlib.suppress(OSError):
            self._file.close()


def new_run_folder(parent: str | pathlib.Path) -> pathlib.Path:
    """Makes `parent`/<time>; returns its path.

    Raises:
        OSError: the folder cannot be made.
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


def point_latest(folder: pathlib.Path) -> bool:
    """Points `latest`, next to a run's folder, to it; returns whether that was possible.

    What is not our link to a run stays as it is.

    Raises:
        OSError: the link cannot be made.
    """
    latest = folder.parent / "latest"
    if os.path.lexists(latest) and not (
        latest.is_symlink() and _RUN_FOLDER.fullmatch(os.readlink(latest))
    ):
        return False
    link = folder / "latest"  # in a folder that nobody else has files in
    link.symlink_to(folder.name)
    os.replace(link, latest)
    return True
