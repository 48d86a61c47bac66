"""Model-parallel embedding tables held by SparseOperationKit (SOK).

SOK brings ids to rows and vectors back, and computes the gradients of its variables; the rest is
here: keys, duplicates, scale, the update of the rows, initial values, reading and writing rows.
`sok2` and `sok1` make the calls to SOK 2.x and 1.x. docs/sok.md says what was run and what was
only read.

Shapes: b local batch, T tables, D embedding dimension, N ranks.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import tensorflow as tf

from model.embedding.interface import BackendError, EmbeddingOptions, ExchangePlan, Ranks
from model.embedding.optimizers import find
from model.embedding.placement import Placement
from model.embedding.row_types import DEFAULT, ROW_TYPES
from model.embedding.sok1 import Sok1Rows, start_sok1
from model.embedding.sok2 import Sok2Rows, Sok2Tables, start_sok2
from model.embedding.sok_checks import check
from model.embedding.sok_steps import LookupStep, apply_rows, create_states
from model.embedding.stored_rows import StoredRows, StoredTables
from ops import embedding as kernels

CHUNK_BYTES = 64 << 20


def start(sok: Any, api: int, cluster: Ranks, local_batch_size: int) -> None:
    """Initialises SOK, before the first `SokEmbedding`; arguments as for that.

    Raises:
        BackendError: Horovod is missing or sees other ranks.
    """
    if api == 1:
        start_sok1(sok, cluster, local_batch_size)
    else:
        start_sok2(sok, cluster)


class SokEmbedding:
    """Keeps the contract `model.embedding.interface.Embedding`; SOK keeps this rank's rows.

    Row-wise tables lie in one SOK variable. Table t has the keys first_key[t] + id with
    first_key[t] a multiple of N, so that SOK's map of a key (owner = key mod N, row = key div N)
    gives each id the owner and the order that a row-wise `Placement` gives it. Whole tables
    (SOK 2.x) are one variable each.

    Args:
        sok: the module `sparse_operation_kit`, initialised by `start`.
        api: 2 or 1, whose calls it has.
        placement: a `model.embedding.placement.Placement` of row-wise or whole tables.
        cluster: the ranks.
        local_batch_size: b.
        options: seed, optimizer and exchange. SOK's vectors travel as float32, except with SOK 1.x
            in float16; `compress` is for row-wise tables only.

    Raises:
        BackendError: the placement or an option cannot take effect with SOK.
    """

    # A lookup's rows hold its gradient tape, which lives in one function.
    separable = False

    def __init__(
        self,
        sok: Any,
        api: int,
        placement: Placement,
        cluster: Ranks,
        local_batch_size: int,
        options: EmbeddingOptions,
    ):
        optimizer = options.optimizer
        check(api, placement, cluster, options.compress, optimizer)
        self.placement = placement
        self._cluster = cluster
        self._batch = local_batch_size
        self._exchange_dtype = options.exchange_dtype
        self._scale = options.gradient_scale(cluster.size)
        self._compress = options.compress
        self.shards = placement.shards_of(cluster.rank)
        rows, whole = placement.row_wise_tables, placement.table_wise_tables
        self._parts = []
        if api == 1:
            self._parts.append(Sok1Rows(sok, placement, rows, self._exchange_dtype))
        else:
            if rows:
                self._parts.append(Sok2Rows(sok, placement, rows))
            if whole:
                self._parts.append(Sok2Tables(sok, placement, whole))
        order = np.concatenate([part.tables for part in self._parts])
        self._table_order = None if np.all(np.diff(order) > 0) else np.argsort(order)
        self._optimizer = find(optimizer)
        # Of each part, of each of its variables: {name: the optimizer's state}.
        self._states = [
            [create_states(self._optimizer, v) for v in part.variables] for part in self._parts
        ]
        self._initialize(options.seed)

    def for_batch(self, local_batch_size: int) -> SokEmbedding:
        """Returns this embedding for batches of another size, over the same tables.

        Args:
            local_batch_size: samples of this rank in each batch, at most those that it was made
                for: SOK 1.x reserves its memory for them.

        Raises:
            BackendError: the batch is larger.
        """
        if local_batch_size > self._batch:
            raise BackendError(
                f"SOK was started for local batches of {self._batch} samples, which "
                f"{local_batch_size} exceeds"
            )
        other = copy.copy(self)
        other._batch = local_batch_size
        return other

    def plan_ids(self, categorical: tf.Tensor) -> ExchangePlan:
        """Checks the ids of this rank's samples, [b, T]: SOK brings them to the rows' owners.

        Raises:
            tf.errors.InvalidArgumentError: an id is outside its table.
        """
        with tf.control_dependencies([self._check_ids(categorical)]):
            return ExchangePlan.of_ids(tf.cast(tf.identity(categorical), tf.int64))

    def lookup_local(self, plan: ExchangePlan) -> list[LookupStep]:
        """Has SOK look up and exchange vectors, which are one call there."""
        return [self._lookup(part, plan.ids) for part in self._parts]

    def exchange_vectors(self, plan: ExchangePlan, rows: list[LookupStep]) -> tf.Tensor:
        """Returns the vectors of this rank's samples, [b, T, D] in the exchange dtype."""
        vectors = tf.concat([step.expand(self._exchange_dtype) for step in rows], axis=1)
        if self._table_order is not None:
            vectors = tf.gather(vectors, self._table_order, axis=1)
        shape = [self._batch, len(self.placement.vocab_sizes), self.placement.dimension]
        return tf.reshape(vectors, shape)

    def exchange_gradients(
        self, plan: ExchangePlan, rows: list[LookupStep], gradients: tf.Tensor
    ) -> list[list[tf.IndexedSlices]]:
        """Returns SOK's gradients of its variables, for each part, from [b, T, D]."""
        return [
            step.gradients(tf.gather(gradients, part.tables, axis=1), part.variables)
            for part, step in zip(self._parts, rows)
        ]

    def update_local(
        self,
        plan: ExchangePlan,
        gradients: list[list[tf.IndexedSlices]],
        learning_rate: tf.Tensor,
        scale: Any = 1.0,
    ) -> None:
        """Updates this rank's rows in place; see `Embedding.update_local`."""
        for index, (part, slices) in enumerate(zip(self._parts, gradients)):
            with part.rows_visible():
                for place, (variable, rows) in enumerate(zip(part.variables, slices)):
                    apply_rows(
                        variable, self._states[index][place], rows, learning_rate,
                        self._scale * scale, self._optimizer,
                    )  # fmt: skip

    def touched_rows(self, plan: ExchangePlan) -> np.ndarray:
        """Returns none: SOK's rows are read while training waits."""
        return np.zeros(0, np.int64)

    def stored_tables(self) -> StoredTables:
        """Returns what a checkpoint reads and writes of this rank's rows."""
        return StoredTables(
            untracked=[self._stored(s, state) for s in self.shards for state in self.states]
        )

    def _stored(self, shard, state):
        def ids(begin, count):
            return shard.row_offset + shard.row_stride * np.arange(begin, begin + count)

        name = None if state == "table" else state
        return StoredRows(
            shard,
            state,
            (shard.rows, *self.row_shape(name)),
            tf.float32,
            read=lambda begin, count: self.read_rows(shard.table, ids(begin, count), name),
            write=lambda begin, values: self.write_rows(
                shard.table, ids(begin, len(values)), values, name
            ),
        )

    @property
    def states(self) -> tuple[str, ...]:
        """Names of what there is for each row: "table", and the optimizer's states."""
        return ("table", *(state.name for state in self._optimizer.states))

    def row_shape(self, state: str | None = None) -> tuple[int, ...]:
        """Returns the shape of one row's values, (D,), or () for a state per row."""
        if state in self._optimizer.per_row_states:
            return ()
        return (self.placement.dimension,)

    def read_rows(self, table: int, ids: Any, state: str | None = None) -> np.ndarray:
        """Returns rows of a table that this rank holds, as a float32 NumPy array [n, D].

        A state per row is [n].

        Args:
            table: index of the table.
            ids: n ids, all owned by this rank.
            state: None for the rows, or the name of one of the optimizer's states.

        Raises:
            IndexError: this rank does not hold one of the ids.
        """
        part, variable, rows = self._find(table, ids, state)
        with part.rows_visible():
            values = tf.raw_ops.ResourceGather(
                resource=variable.handle, indices=rows, dtype=tf.float32
            )
        return values.numpy()

    def write_rows(self, table: int, ids: Any, values: Any, state: str | None = None) -> None:
        """Overwrites rows of a table that this rank holds.

        Args:
            table: index of the table.
            ids: n ids, all owned by this rank.
            values: float32 [n, D], or [n].
            state: as for `read_rows`.

        Raises:
            IndexError: this rank does not hold one of the ids.
        """
        part, variable, rows = self._find(table, ids, state)
        with part.rows_visible():
            tf.raw_ops.ResourceScatterUpdate(
                resource=variable.handle, indices=rows, updates=tf.convert_to_tensor(values)
            )

    def _lookup(self, part, ids):
        keys = part.keys(ids)
        repeated = None
        if self._compress:
            keys, repeated = tf.unique(keys)
        with tf.GradientTape() as tape:
            vectors = part.embed(keys)
        shape = [self._batch, len(part.tables), self.placement.dimension]
        return LookupStep(tape, vectors, repeated, shape)

    def _find(self, table, ids, state):
        """Returns (part, variable, its rows) of ids, of the rows or of their state."""
        index = next((i for i, part in enumerate(self._parts) if table in part.tables), None)
        if index is None:
            raise IndexError(f"table {table}: there are {len(self.placement.vocab_sizes)} tables")
        part, ids = self._parts[index], np.asarray(ids, np.int64)
        shard = next((s for s in self.shards if s.table == table), None)
        row = np.zeros(0, np.int64)
        if shard is not None:
            row, rest = np.divmod(ids - shard.row_offset, shard.row_stride)
        if shard is None or np.any((rest != 0) | (row < 0) | (row >= shard.rows)):
            raise IndexError(
                f"table {table}: not all of the ids asked for are on rank {self._cluster.rank}"
            )
        place, first = part.place(table)
        if state is None:
            variable = part.variables[place]
        elif state in self._states[index][place]:
            variable = self._states[index][place][state]
        else:
            raise KeyError(f"the optimizer keeps no {state!r}")
        return part, variable, tf.constant(first + row)

    def _initialize(self, seed):
        """Writes the native backend's initial values, computed on the host, chunk by chunk."""
        sizes, dimension = self.placement.vocab_sizes, self.placement.dimension
        step = max(1, CHUNK_BYTES // (ROW_TYPES[DEFAULT] * dimension))
        for shard in self.shards:
            for begin in range(0, shard.rows, step):
                rows = min(step, shard.rows - begin)
                first = shard.row_offset + begin * shard.row_stride
                with tf.device("CPU:0"):
                    chunk = kernels.create_table(rows, dimension)
                    kernels.embedding_initialize(
                        chunk,
                        base_row=0,
                        rows=rows,
                        table_index=shard.table,
                        seed=seed,
                        limit=math.sqrt(1.0 / sizes[shard.table]),
                        first_row=first,
                        row_stride=shard.row_stride,
                    )
                ids = first + shard.row_stride * np.arange(rows)
                self.write_rows(shard.table, ids, chunk)

    def _check_ids(self, ids):
        """Returns an op that fails if an id is outside its table: SOK would read other memory."""
        bounds = tf.constant(self.placement.vocab_sizes, ids.dtype)
        bad = tf.logical_or(ids < 0, ids >= bounds)
        tables = len(self.placement.vocab_sizes)
        first = tf.argmax(tf.reshape(bad, [-1]), output_type=tf.int32)
        sample, table = first // tables, tf.math.floormod(first, tables)
        text = tf.strings.format(
            "table {}, sample {}: id {} is outside [0, {})",
            [table, sample, tf.reshape(ids, [-1])[first], bounds[table]],
        )
        return tf.debugging.Assert(tf.logical_not(tf.reduce_any(bad)), [text])
