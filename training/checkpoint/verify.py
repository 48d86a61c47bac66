"""Verifies a checkpoint by reading every file."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from training.checkpoint import checksums, manifest, npy_files
from training.checkpoint.errors import DamagedError


def find_problems(folder: str | os.PathLike) -> list[str]:
    """Reads every byte of a checkpoint and returns one line per problem, which names a file."""
    folder = pathlib.Path(folder)
    try:
        digests = checksums.read_checksums(folder)
    except DamagedError as error:
        return [str(error)]
    errors = checksums.verify_files(folder, digests)
    found = [str(error) for error in errors]
    if any(error.path == str(folder / manifest.NAME) for error in errors):
        return found
    try:
        read, _ = manifest.read(folder)
    except DamagedError as error:
        return [*found, str(error)]
    # If all digests match, the files still have to be consistent with each other.
    return found or list(_inconsistencies(folder, read))


def _inconsistencies(folder: pathlib.Path, read: dict[str, Any]) -> Iterator[str]:
    """Yields one line per contradiction between the arrays and the manifest."""
    for entry in manifest.entries(read):
        try:
            npy_files.load_array(folder, entry)
        except DamagedError as error:
            yield str(error)
    for state in {entry["state"] for entry in read["tables"]}:
        for table, rows in enumerate(read["vocab_sizes"]):
            parts = [e for e in read["tables"] if (e["table"], e["state"]) == (table, state)]
            values = sum(math.prod(entry["shape"]) for entry in parts)
            vector = any(len(entry["shape"]) == 1 for entry in parts)
            expected = rows * (1 if vector else read["embedding_dim"])
            if values != expected:
                where = f"{folder / manifest.NAME}: table {table} ({state})"
                yield f"{where}: expected {expected} values in its parts, found {values}"
