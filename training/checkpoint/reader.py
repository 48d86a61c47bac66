"""Reads rows of a checkpoint's tables, independent of the placement that wrote them."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from training.checkpoint.errors import DamagedError
from training.checkpoint.npy_files import load_array

# `Reader.table` yields pieces of about this many bytes.
_PIECE_BYTES = 32 << 20


class Reader:
    """The arrays of a checkpoint, mapped into memory on first use.

    Args:
        folder: the checkpoint.
        manifest: its manifest (`training.checkpoint.manifest.read`).
    """

    def __init__(self, folder: str | os.PathLike, manifest: dict[str, Any]):
        self.folder = pathlib.Path(folder)
        self.manifest = manifest
        self._arrays: dict[str, np.ndarray] = {}

    def named(self, group: str, name: str) -> np.ndarray:
        """Returns an array that all ranks share.

        Args:
            group: "dense", "optimizer" or "loss_scale".
            name: its name within the group.
        """
        return np.asarray(load_array(self.folder, self.manifest[group][name]))

    def row_shape(self, table: int, state: str) -> tuple[int, ...]:
        """Returns the shape of one row's values: (D,) or ().

        Raises:
            DamagedError: the checkpoint lacks this state of the table.
        """
        entry = self._parts(table, state)[0]
        return () if len(entry["shape"]) == 1 else (self.manifest["embedding_dim"],)

    def rows(
        self,
        table: int,
        state: str,
        first: int,
        stride: int,
        count: int,
        columns: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """Returns rows first, first + stride, ... of a table.

        Args:
            table: index of the table.
            state: "table", or the name of an optimizer state.
            first: the first id.
            stride: distance between consecutive ids.
            count: number of ids.
            columns: (first, one past the last); None for all.

        Returns:
            float32 [count, columns], or [count] for a state with one number per row.

        Raises:
            DamagedError: the checkpoint lacks some of these values.
        """
        vector = self.row_shape(table, state) == ()
        low, high = columns or (0, self.manifest["embedding_dim"])
        values = np.empty((count,) if vector else (count, high - low), np.float32)
        ids = first + stride * np.arange(count, dtype=np.int64)
        missing = values.size
        for entry in self._parts(table, state):
            local, rest = np.divmod(ids - entry["row_offset"], entry["row_stride"])
            here = (rest == 0) & (local >= 0) & (local < entry["rows"])
            if not here.any():
                continue
            if entry["file"] not in self._arrays:
                self._arrays[entry["file"]] = load_array(self.folder, entry)
            array = self._arrays[entry["file"]]
            # Usually one file has all the rows; a slice is the fastest way to read them.
            which = slice(None) if here.all() else here
            taken = array[_as_slice(local[which])]
            if vector:
                values[which] = taken
                missing -= taken.size
                continue
            left, right = max(low, entry["column_start"]), min(high, entry["column_end"])
            if left >= right:
                continue
            taken = taken[:, left - entry["column_start"] : right - entry["column_start"]]
            values[which, left - low : right - low] = taken
            missing -= taken.size
        if missing:
            rows = f"table {table} ({state}), rows {first} to {first + stride * (count - 1)}"
            problem = f"{rows}: {missing} of {values.size} values are missing"
            raise DamagedError.of_path(self.folder, problem, table=table)
        return values

    def table(self, table: int) -> Iterator[np.ndarray]:
        """Yields all rows of a table in consecutive pieces, float32 [n, D]."""
        rows = self.manifest["vocab_sizes"][table]
        row_bytes = np.dtype(np.float32).itemsize * self.manifest["embedding_dim"]
        step = max(1, _PIECE_BYTES // row_bytes)
        for begin in range(0, rows, step):
            yield self.rows(table, "table", begin, 1, min(step, rows - begin))

    def _parts(self, table: int, state: str) -> list[dict[str, Any]]:
        parts = [
            entry
            for entry in self.manifest["tables"]
            if entry["table"] == table and entry["state"] == state
        ]
        if not parts:
            problem = f"has no {state} of table {table}"
            raise DamagedError.of_path(self.folder, problem, table=table, expected=state)
        return parts


def _as_slice(positions: np.ndarray) -> slice | np.ndarray:
    """Returns evenly spaced positions as a slice, others unchanged."""
    if positions.size == 1:
        return slice(int(positions[0]), int(positions[0]) + 1)
    steps = np.diff(positions)
    if (steps == steps[0]).all() and steps[0] > 0:
        return slice(int(positions[0]), int(positions[-1]) + 1, int(steps[0]))
    return positions
