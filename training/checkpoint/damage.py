"""Finds the damage of a checkpoint by reading every file."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from training.checkpoint import files, manifest


def find_problems(folder: str | os.PathLike) -> list[str]:
    """Reads every byte of a checkpoint and returns a line for each problem.

    Args:
        folder: the checkpoint.

    Returns:
        A list of texts, each naming a file; empty for a whole checkpoint.
    """
    folder = pathlib.Path(folder)
    try:
        digests = files.read_checksums(folder)
    except files.DamagedError as error:
        # Without these nothing else can be judged.
        return [str(error)]
    found = [str(error) for error in files.verify_all(folder, digests)]
    if any(line.startswith(f"{folder / manifest.NAME}:") for line in found):
        return found
    try:
        read, _ = manifest.read(folder)
    except files.DamagedError as error:
        return [*found, str(error)]
    if not found:
        # The bytes are as they were written; this checks that they fit together.
        found += _inconsistencies(folder, read)
    return found


def _inconsistencies(folder: pathlib.Path, read: dict[str, Any]) -> Iterator[str]:
    """Yields a line for each contradiction between the arrays and the manifest."""
    for entry in manifest.entries(read):
        try:
            files.load_array(folder, entry)
        except files.DamagedError as error:
            yield str(error)
    for state in {entry["state"] for entry in read["tables"]}:
        for table, rows in enumerate(read["vocab_sizes"]):
            parts = [e for e in read["tables"] if (e["table"], e["state"]) == (table, state)]
            values = sum(int(np.prod(entry["shape"], dtype=np.int64)) for entry in parts)
            vector = any(len(entry["shape"]) == 1 for entry in parts)
            expected = rows * (1 if vector else read["embedding_dim"])
            if values != expected:
                where = f"{folder / manifest.NAME}: the parts of table {table} ({state})"
                yield f"{where} hold {values} values, expected {expected}"
