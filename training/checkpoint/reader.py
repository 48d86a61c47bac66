"""Reads rows of a checkpoint's tables, whatever their placement was."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from training.checkpoint.files import DamagedError, load_array

# Rows of a whole table that are yielded at once.
_PIECE_BYTES = 32 << 20


class Reader:
    """The arrays of a checkpoint, mapped into memory as they are needed.

    Args:
        folder: the checkpoint.
        manifest: its manifest (`training.checkpoint.manifest.read`).
    """

    def __init__(self, folder: str | os.PathLike, manifest: dict[str, Any]):
        self.folder = pathlib.Path(folder)
        self.manifest = manifest
        self._arrays: dict[str, np.ndarray] = {}

    def named(self, group: str, name: str) -> np.ndarray:
        """Returns an array that is the same on all ranks.

        Args:
            group: "dense", "optimizer" or "loss_scale".
            name: its name there.
        """
        return np.asarray(load_array(self.folder, self.manifest[group][name]))

    def states(self) -> list[str]:
        """Returns the names of the states of each row: "table", and the optimizer's."""
        return sorted({entry["state"] for entry in self.manifest["tables"]}, reverse=True)

    def row_shape(self, table: int, state: str) -> tuple[int, ...]:
        """Returns the shape of one row's values: (D,) or ().

        Raises:
            DamagedError: no rank has written that state of the table.
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
            table: its index.
            state: "table", or an optimizer's state.
            first: the first id.
            stride: distance between two ids.
            count: number of ids.
            columns: (first, one past the last); None for all.

        Returns:
            float32 [count, columns], or [count] for row-wise sums.

        Raises:
            DamagedError: some of these rows are missing.
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
            array = self._array(entry)
            # All of a stretch is the common case; a slice of the file is its fastest way.
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
            raise DamagedError(
                f"{self.folder}: {missing} values of table {table} ({state}) among rows {first} to "
                f"{first + stride * (count - 1)} are in none of its files"
            )
        return values

    def table(self, table: int, state: str = "table") -> Iterator[np.ndarray]:
        """Yields the rows of a whole table in consecutive pieces, float32 [n, D] or [n]."""
        rows = self.manifest["vocab_sizes"][table]
        row_bytes = np.dtype(np.float32).itemsize * self.manifest["embedding_dim"]
        step = max(1, _PIECE_BYTES // row_bytes)
        for begin in range(0, rows, step):
            yield self.rows(table, state, begin, 1, min(step, rows - begin))

    def _parts(self, table: int, state: str) -> list[dict[str, Any]]:
        parts = [
            entry
            for entry in self.manifest["tables"]
            if entry["table"] == table and entry["state"] == state
        ]
        if not parts:
            raise DamagedError(f"{self.folder}: holds no {state} of table {table}")
        return parts

    def _array(self, entry: dict[str, Any]) -> np.ndarray:
        if entry["file"] not in self._arrays:
            self._arrays[entry["file"]] = load_array(self.folder, entry)
        return self._arrays[entry["file"]]


def _as_slice(positions: np.ndarray) -> slice | np.ndarray:
    """Returns evenly spaced positions as a slice, others unchanged."""
    if positions.size == 1:
        return slice(int(positions[0]), int(positions[0]) + 1)
    steps = np.diff(positions)
    if (steps == steps[0]).all() and steps[0] > 0:
        return slice(int(positions[0]), int(positions[-1]) + 1, int(steps[0]))
    return positions
