"""Writes one rank's files of one checkpoint."""

from training.checkpoint import files


class ShardWriter:
    """Writes one rank's files of one checkpoint."""

    def __init__(self, partial, rank, state, copies, snapshot):
        self._partial, self._rank, self._state = partial, rank, state
        self._copies = copies
        self.snapshot = snapshot
        self._note = {"digests": {}, "tables": [], "named": {}, "bytes": 0}

    def write_followed_by_none(self):
        """Writes the shards whose changes no snapshot sees."""
        for stored in self._state.unfollowed:
            self._stream([stored], stored.pieces())

    def write_rest(self, stopping):
        """Writes everything else; returns the note of all files, None when told to stop."""
        for group, arrays in self._copies.named.items():
            for name, values in arrays.items():
                entry = self._write(f"{group}.{name}.npy", values.shape, values.dtype, [values])
                self._note["named"].setdefault(group, {})[name] = entry
        for stored, values in self._copies.shards:
            self._stream([stored], [{stored.state: values}])
        for index, group in self._state.followed:
            if stopping.is_set():
                return None
            self._stream(group, self.snapshot.pieces(index))
        files.sync_folder(self._partial)
        return self._note

    def _stream(self, group, pieces):
        """Writes the states of one shard side by side; `group` has a `StoredRows` for each."""
        writers = {}
        for stored in group:
            name = f"{stored.name}.npy"
            writers[stored.state] = (
                files.NpyWriter(self._partial / name, stored.shape, "float32"),
                name,
            )
        try:
            for values in pieces:
                for state, (writer, _) in writers.items():
                    writer.append(values[state])
            for stored in group:
                writer, name = writers[stored.state]
                writer.close()
                self._count(name, writer)
                entry = {**stored.description, **_entry(name, stored.shape, "float32")}
                self._note["tables"].append(entry)
        finally:
            for writer, _ in writers.values():
                writer.abandon()

    def _write(self, name, shape, dtype, parts):
        writer = files.NpyWriter(self._partial / name, shape, dtype)
        try:
            for part in parts:
                writer.append(part)
            writer.close()
        finally:
            writer.abandon()
        self._count(name, writer)
        return _entry(name, shape, dtype)

    def _count(self, name, writer):
        self._note["digests"][name] = writer.digest
        self._note["bytes"] += writer.bytes


def _entry(name, shape, dtype):
    return {"file": name, "shape": list(shape), "dtype": str(dtype)}
