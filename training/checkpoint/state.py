"""What a checkpoint holds of a job: dense variables, optimizer, loss scale, rows of tables."""

import dataclasses

import numpy as np

# Rows of a shard that are read or written at once where no snapshot is taken.
_PIECE_BYTES = 32 << 20


@dataclasses.dataclass(frozen=True)
class StoredRows:
    """One state of one shard of this rank: the rows themselves or Adagrad's sums beside them.

    Attributes:
        shard: a `model.embedding.shards.Shard`.
        state: "table" or "accumulator".
        shape: (rows, columns), or (rows,) row-wise.
        read: function (begin, count) -> float32 array of the shard's rows [begin, begin + count).
        write: function (begin, values) that overwrites them.
    """

    shard: "object"
    state: str
    shape: tuple
    read: "object"
    write: "object"

    @property
    def name(self):
        """The file's name without its ending, unique among all ranks."""
        kind = "" if self.state == "table" else f".{self.state}"
        return f"table_{self.shard.table:02d}{kind}.rank_{self.shard.rank}"

    @property
    def description(self):
        """What the manifest says of it beside file, shape and dtype."""
        names = ("table", "row_offset", "row_stride", "rows", "column_start", "column_end")
        return {"state": self.state, **{name: getattr(self.shard, name) for name in names}}

    @property
    def bytes(self):
        """Bytes of its rows."""
        return 4 * int(np.prod(self.shape, dtype=np.int64))

    def ranges(self):
        """Yields (begin, count) of pieces of bounded size."""
        rows = self.shape[0]
        step = max(1, _PIECE_BYTES * max(1, rows) // max(1, self.bytes))
        for begin in range(0, rows, step):
            yield begin, min(step, rows - begin)

    def pieces(self):
        """Yields {state: values} of consecutive rows."""
        for begin, count in self.ranges():
            yield {self.state: self.read(begin, count)}


@dataclasses.dataclass(frozen=True)
class Copies:
    """Values that were copied at the moment of a checkpoint.

    Attributes:
        named: {group: {name: array}}.
        shards: [(`StoredRows`, its values)].
    """

    named: dict
    shards: list


class State:
    """The state of a job on one rank.

    Args:
        dense_model: a `model.dlrm.DenseDLRM`.
        optimizer: its Keras optimizer, built.
        scale: a `training.precision.LossScale`.
        embedding: what `model.embedding.backend.build` returned.
        cluster: the ranks (`training.cluster`).

    Attributes:
        embedding: as given.
        fused: the `FusedTables` that a snapshot follows, or None.
        followed: [(number of the shard in `fused`, its `StoredRows`)], in order of rows.
        unfollowed: `StoredRows` that are written while training waits.
        replicated: `StoredRows` of tables that every rank holds.
        dynamic_scale: whether the job finds its loss scale while it trains.
    """

    def __init__(self, dense_model, optimizer, scale, embedding, cluster):
        self.embedding = embedding
        self._cluster = cluster
        self._dense = {_name(v, i): v for i, v in enumerate(dense_model.variables)}
        self._optimizer = {_name(v, i): v for i, v in enumerate(optimizer.variables)}
        self._scale, self.dynamic_scale = scale.variables, scale.dynamic
        self.fused, self.followed, self.unfollowed, self.replicated = None, [], [], []
        if hasattr(embedding, "exchanged"):
            self.fused = embedding.exchanged
            if self.fused is not None:
                groups = _shards_of_fused(self.fused)
                order = sorted(groups, key=lambda index: self.fused.row_range(index))
                self.followed = [(index, groups[index]) for index in order]
            if embedding.replicated is not None:
                groups = _shards_of_fused(embedding.replicated)
                self.replicated = [stored for group in groups.values() for stored in group]
        else:
            self.unfollowed = _shards_of_sok(embedding)

    @property
    def named(self):
        """{group: {name: variable}} of what all ranks have alike."""
        return {"dense": self._dense, "optimizer": self._optimizer, "loss_scale": self._scale}

    @property
    def stored(self):
        """All `StoredRows` of this rank."""
        followed = [stored for _, group in self.followed for stored in group]
        return followed + self.unfollowed + self.replicated

    def copies(self, rank):
        """Copies what all ranks have alike, each part on the rank that writes it."""
        named = {}
        if rank == 0:
            named = {
                group: {name: variable.numpy() for name, variable in variables.items()}
                for group, variables in self.named.items()
            }
        mine = [s for s in self.replicated if s.shard.table % self._cluster.size == rank]
        return Copies(named, [(stored, stored.read(0, stored.shape[0])) for stored in mine])

    def bytes_of(self, rank):
        """Returns the bytes that a rank writes, without headers."""
        named = 0
        if rank == 0:
            every = [v for variables in self.named.values() for v in variables.values()]
            named = sum(int(np.prod(v.shape)) * v.dtype.size for v in every)
        return named + sum(stored.bytes for stored in self.stored)

    def description(self):
        """Returns what the manifest says of the model."""
        placement = self.embedding.placement
        return {
            "vocab_sizes": [int(rows) for rows in placement.vocab_sizes],
            "embedding_dim": placement.dimension,
        }


def _name(variable, index):
    """Returns a file name's part for a Keras variable: "03.bottom_dense_1_bias"."""
    kept = "".join(c if c.isalnum() else "_" for c in variable.name.split(":")[0])
    return f"{index:02d}.{kept}"


def _shards_of_fused(fused):
    """Returns {number of a shard: [its `StoredRows`]} of fused tables."""

    def stored(index, shard, state):
        vector = fused.states[state].shape.rank == 1
        return StoredRows(
            shard,
            state,
            (shard.rows,) if vector else (shard.rows, shard.width),
            read=lambda begin, count: fused.read(index, begin, count, state),
            write=lambda begin, values: fused.write(index, begin, values, state),
        )

    return {
        index: [stored(index, shard, state) for state in fused.states]
        for index, shard in enumerate(fused.shards)
    }


def _shards_of_sok(embedding):
    """Returns the `StoredRows` of a `model.embedding.sok.SokEmbedding`."""

    def stored(shard, state):
        def ids(begin, count):
            return shard.row_offset + shard.row_stride * np.arange(begin, begin + count)

        name = None if state == "table" else state
        return StoredRows(
            shard,
            state,
            (shard.rows, *embedding.row_shape(name)),
            read=lambda begin, count: embedding.read_rows(shard.table, ids(begin, count), name),
            write=lambda begin, values: embedding.write_rows(
                shard.table, ids(begin, len(values)), values, name
            ),
        )

    return [stored(shard, state) for shard in embedding.shards for state in embedding.states]
