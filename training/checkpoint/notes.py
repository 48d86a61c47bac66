"""Notes for rank 0 about the files that the other ranks have written.

A note is a file in the checkpoint's folder while the checkpoint is being written: this needs no
message between ranks, and detects a folder that not all ranks share.
"""

from __future__ import annotations

import contextlib
import pathlib
import threading
import time
from collections.abc import Mapping
from typing import Any

from storage.atomic import encode_json, replacing
from storage.structured import StructureError, check_shape, read_json
from training.checkpoint import shapes
from training.runtime.errors import UserError

_POLL_SECONDS = 0.05
# About 400 bytes a file.
_MOST_BYTES = 64 << 20


def note_path(partial: pathlib.Path, rank: int) -> pathlib.Path:
    """Returns the path of a rank's note."""
    return partial / f".rank-{rank}.json"


def publish_done(partial: pathlib.Path, rank: int, note: Mapping[str, Any]) -> None:
    """Writes a rank's note, which `await_ranks` returns on rank 0."""
    path = note_path(partial, rank)
    with replacing(path, path.with_suffix(".new")) as file:
        file.write(encode_json(note, indent=None).encode())


def leave_failure(partial: pathlib.Path, rank: int, text: str) -> None:
    """Removes a rank's files and writes a note with its error.

    Raises:
        OSError: the note cannot be written either.
    """
    # The note needs disk space too.
    for path in partial.glob(f"*.rank_{rank}.npy"):
        path.unlink()
    publish_done(partial, rank, {"failure": text})


def await_ranks(
    partial: pathlib.Path, ranks: int, timeout: float, stopping: threading.Event
) -> list[dict[str, Any]]:
    """Waits for the notes of all ranks and returns them.

    Raises:
        UserError: a rank has failed, has written nothing for `timeout` seconds, or its note
            is malformed.
    """
    deadline = time.monotonic() + timeout
    notes: dict[int, dict[str, Any]] = {}
    last = 0
    while len(notes) < ranks:
        for rank in range(ranks):
            if rank not in notes and note_path(partial, rank).exists():
                notes[rank] = _read(note_path(partial, rank))
                if "failure" in notes[rank]:
                    raise UserError(f"rank {rank}: {notes[rank]['failure']}")
        written = _bytes_in(partial)
        if written > last:
            # A slow disk is no reason to give up, as long as bytes arrive.
            deadline, last = time.monotonic() + timeout, written
        if len(notes) < ranks:
            if time.monotonic() > deadline or stopping.is_set():
                missing = sorted(set(range(ranks)) - set(notes))
                raise UserError(
                    f"checkpoint {partial}: rank {missing[0]} has not written its part for "
                    f"{timeout} s"
                )
            time.sleep(_POLL_SECONDS)
    return [notes[rank] for rank in range(ranks)]


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        note = read_json(path, dict, max_bytes=_MOST_BYTES)
        check_shape(note, str(path), shapes.Failure if "failure" in note else shapes.Note)
    except StructureError as error:
        raise UserError(f"note of a rank: {error}") from error
    return note


def _bytes_in(folder: pathlib.Path) -> int:
    total = 0
    for path in folder.iterdir():
        # Another rank may have renamed it since.
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
