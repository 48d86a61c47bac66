"""Completion records: how the ranks report to rank 0 that they have written their files.

A record is a file in the checkpoint's folder while it is being written. This needs no message
between ranks, and it detects a folder that is not shared by all ranks.
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
from training.checkpoint import manifest_schema
from training.runtime.errors import UserError

_POLL_SECONDS = 0.05
# About 400 bytes per file.
_MAX_BYTES = 64 << 20


def record_path(partial: pathlib.Path, rank: int) -> pathlib.Path:
    """Returns the path of a rank's record."""
    return partial / f".rank-{rank}.json"


def publish_done(partial: pathlib.Path, rank: int, record: Mapping[str, Any]) -> None:
    """Writes a rank's record, which `await_ranks` returns on rank 0."""
    path = record_path(partial, rank)
    with replacing(path, path.with_suffix(".new")) as file:
        file.write(encode_json(record, indent=None).encode())


def publish_failure(partial: pathlib.Path, rank: int, text: str) -> None:
    """Removes a rank's files and writes a record with its error.

    Raises:
        OSError: the record cannot be written either.
    """
    # The record needs disk space too.
    for path in partial.glob(f"*.rank_{rank}.npy"):
        path.unlink()
    publish_done(partial, rank, {"failure": text})


def await_ranks(
    partial: pathlib.Path, ranks: int, timeout: float, stopping: threading.Event
) -> list[dict[str, Any]]:
    """Waits for the records of all ranks and returns them, in rank order.

    Args:
        partial: the checkpoint's folder while it is being written.
        ranks: number of ranks.
        timeout: seconds without a new byte in the folder after which to give up.
        stopping: gives up at once when set.

    Raises:
        UserError: a rank failed or timed out, or its record is malformed.
    """
    deadline = time.monotonic() + timeout
    records: dict[int, dict[str, Any]] = {}
    last = 0
    while True:
        for rank in range(ranks):
            path = record_path(partial, rank)
            if rank not in records and path.exists():
                records[rank] = _read(path)
                if "failure" in records[rank]:
                    raise UserError(f"rank {rank}: {records[rank]['failure']}", path=partial)
        if len(records) == ranks:
            return [records[rank] for rank in range(ranks)]
        written = _bytes_in(partial)
        if written > last:
            # A slow disk is not a failure while bytes keep arriving.
            deadline, last = time.monotonic() + timeout, written
        if time.monotonic() > deadline or stopping.is_set():
            missing = min(set(range(ranks)) - set(records))
            problem = f"rank {missing} has not finished its part, and no rank has written anything"
            raise UserError.of_path(partial, f"{problem} for {timeout} s", bound=timeout)
        time.sleep(_POLL_SECONDS)


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        record = read_json(path, dict, max_bytes=_MAX_BYTES)
        schema = manifest_schema.Failure if "failure" in record else manifest_schema.Done
        check_shape(record, str(path), schema)
    except StructureError as error:
        raise UserError.of(error, "completion record of a rank: ") from error
    return record


def _bytes_in(folder: pathlib.Path) -> int:
    total = 0
    for path in folder.iterdir():
        # Another rank may have renamed it since.
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
