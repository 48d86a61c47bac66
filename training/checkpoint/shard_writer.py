"""Writes one rank's files of one checkpoint."""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from model.embedding.stored_rows import StoredRows
from storage.atomic import sync_folder
from training.checkpoint.npy_files import ArrayFiles
from training.checkpoint.snapshot import Snapshot
from training.checkpoint.state import Copies, State


class ShardWriter:
    """Writes one rank's files of one checkpoint.

    Args:
        partial: the checkpoint's folder while it is being written.
        state: the rank's state.
        copies: the values that `State.copies` has copied.
        snapshot: of the tracked tables; None if there are none.

    Attributes:
        snapshot: as given.
    """

    def __init__(
        self, partial: pathlib.Path, state: State, copies: Copies, snapshot: Snapshot | None
    ):
        self._partial, self._state, self._copies = partial, state, copies
        self.snapshot = snapshot
        self._arrays = ArrayFiles(partial)
        self._tables: list[dict[str, Any]] = []
        self._named: dict[str, dict[str, dict[str, Any]]] = {}

    def write_unsnapshotted(self) -> None:
        """Writes the shards that a `Snapshot` cannot track."""
        for stored in self._state.tables.untracked:
            self._stream([stored], stored.pieces())

    def write_rest(self, stopping: threading.Event) -> dict[str, Any] | None:
        """Writes all other files; returns the completion record, or None if `stopping` is set."""
        for group, arrays in self._copies.named.items():
            for name, values in arrays.items():
                file = f"{group}.{name}.npy"
                entry = self._arrays.write(file, values.shape, values.dtype, [values])
                self._named.setdefault(group, {})[name] = entry
        for stored, values in self._copies.shards:
            self._stream([stored], [{stored.state: values}])
        for index, group in self._state.tables.tracked_shards:
            if stopping.is_set():
                return None
            assert self.snapshot is not None
            self._stream(group, self.snapshot.pieces(index))
        sync_folder(self._partial)
        return {
            "digests": self._arrays.digests,
            "tables": self._tables,
            "named": self._named,
            "bytes": self._arrays.bytes,
        }

    def _stream(self, group: Sequence[StoredRows], pieces: Iterable[dict[str, np.ndarray]]) -> None:
        """Writes all states of one shard, given as one `StoredRows` each."""
        of_file = {f"{stored.name}.npy": stored for stored in group}
        entries = self._arrays.write_together(
            {name: (stored.shape, stored.dtype.name) for name, stored in of_file.items()},
            ({name: values[s.state] for name, s in of_file.items()} for values in pieces),
        )
        for name, stored in of_file.items():
            self._tables.append({**stored.description, **entries[name]})
