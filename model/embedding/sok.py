"""Model-parallel embedding tables held by SparseOperationKit (SOK) 2.x.

SOK routes ids to rows, returns vectors and computes the gradients of its variables. This module
adds keys, deduplication, the gradients' scale, row updates, initial values, and reading and writing
of rows. `model.embedding.sok_tables` makes the calls to SOK. docs/sok.md lists what has been run
and what was only read in SOK's source.

Shapes: b local batch, T tables, D embedding dimension, N ranks.
"""

from __future__ import annotations

import copy
import math
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from model.embedding.interface import (
    BackendError,
    EmbeddingOptions,
    ExchangePlan,
    Ranks,
    SideStream,
)
from model.embedding.optimizers import find
from model.embedding.placement import Placement
from model.embedding.row_types import DEFAULT, ROW_TYPES
from model.embedding.sok_tables import RecordedLookup, RowWiseTables, TableWiseTables
from model.embedding.stored_rows import StoredRows, StoredTables
from ops import embedding as kernels

CHUNK_BYTES = 64 << 20


class SokEmbedding:
    """Implements `model.embedding.interface.Embedding`; SOK holds this rank's rows.

    Row-wise tables are in one SOK variable. Table t has the keys first_key[t] + id, where
    first_key[t] is a multiple of N, so that SOK's map of a key (owner = key mod N, row = key div N)
    gives each id the owner and the order that a row-wise `Placement` gives it. Table-wise tables
    are one variable each.

    Args:
        sok: the module `sparse_operation_kit`, initialised by `model.embedding.sok_tables.start`.
        placement: a placement of row-wise and table-wise tables.
        cluster: the ranks.
        local_batch_size: b.
        options: seed, optimizer and exchange. SOK exchanges vectors as float32; `compress` is for
            row-wise tables only.

    Raises:
        BackendError: the placement or an option cannot take effect with SOK.
    """

    # A lookup's rows hold its gradient tape, which lives in one function.
    separable = False
    side_stream = SideStream()

    def __init__(
        self,
        sok: ModuleType,
        placement: Placement,
        cluster: Ranks,
        local_batch_size: int,
        options: EmbeddingOptions,
    ):
        _check(placement, options)
        self.placement = placement
        self._rank = cluster.rank
        self._batch = local_batch_size
        self._exchange_dtype = options.exchange_dtype
        self._scale = options.gradient_scale(cluster.size)
        self._compress = options.compress
        self.shards = placement.shards_of(cluster.rank)
        row_wise, table_wise = placement.row_wise_tables, placement.table_wise_tables
        self._parts: list[RowWiseTables | TableWiseTables] = []
        if row_wise:
            self._parts.append(RowWiseTables(sok, placement, row_wise))
        if table_wise:
            self._parts.append(TableWiseTables(sok, placement, table_wise))
        order = np.concatenate([part.tables for part in self._parts])
        self._table_order = None if np.all(np.diff(order) > 0) else np.argsort(order)
        self.optimizer = find(options.optimizer)
        # For each part, for each of its variables: {name: the optimizer's state}.
        self._states = [
            [self._create_states(variable) for variable in part.variables] for part in self._parts
        ]
        self._initialize(options.seed)

    def _create_states(self, variable):
        rows, width = variable.shape
        return {
            state.name: tf.Variable(
                tf.fill(state.shape(rows, width), self.optimizer.initial_value(state)),
                trainable=False,
                name=state.name,
            )
            for state in self.optimizer.states
        }

    def for_batch(self, local_batch_size: int) -> SokEmbedding:
        """Returns this embedding for batches of another size, over the same tables."""
        other = copy.copy(self)
        other._batch = local_batch_size
        return other

    def for_training(self) -> SokEmbedding:
        """Returns itself: SOK's kernels run on TensorFlow's stream."""
        return self

    def plan_ids(self, categorical: tf.Tensor) -> ExchangePlan:
        """Checks the ids of this rank's samples, [b, T]; SOK sends them to the rows' owners.

        Raises:
            tf.errors.InvalidArgumentError: an id is outside its table.
        """
        with tf.control_dependencies([self._check_ids(categorical)]):
            return ExchangePlan.of_ids(tf.cast(tf.identity(categorical), tf.int64))

    def lookup_local(self, plan: ExchangePlan) -> list[RecordedLookup]:
        """Looks up and exchanges vectors, which is one call to SOK."""
        return [
            RecordedLookup(
                part,
                plan.ids,
                [self._batch, len(part.tables), self.placement.dimension],
                self._compress,
            )
            for part in self._parts
        ]

    def exchange_vectors(self, plan: ExchangePlan, rows: list[RecordedLookup]) -> tf.Tensor:
        """Returns the vectors of this rank's samples, [b, T, D] in the exchange dtype."""
        vectors = tf.concat([found.expand(self._exchange_dtype) for found in rows], axis=1)
        if self._table_order is not None:
            vectors = tf.gather(vectors, self._table_order, axis=1)
        shape = [self._batch, len(self.placement.vocab_sizes), self.placement.dimension]
        return tf.reshape(vectors, shape)

    def exchange_gradients(
        self, plan: ExchangePlan, rows: list[RecordedLookup], gradients: tf.Tensor
    ) -> list[list[tf.IndexedSlices]]:
        """Returns SOK's gradients of its variables, per part, from those of vectors [b, T, D]."""
        return [
            found.gradients(tf.gather(gradients, part.tables, axis=1), part.variables)
            for part, found in zip(self._parts, rows)
        ]

    def update_local(
        self,
        plan: ExchangePlan,
        gradients: list[list[tf.IndexedSlices]],
        learning_rate: tf.Tensor,
        scale: Any = 1.0,
    ) -> list[tf.Operation]:
        """Updates this rank's rows in place; see `Embedding.update_local`."""
        # Updates go through the variables' handles: SOK's OptimizerWrapper accepts dynamic
        # variables only, and Keras optimizers of before TensorFlow 2.11.
        for part, states, slices in zip(self._parts, self._states, gradients):
            for variable, state, rows in zip(part.variables, states, slices):
                kernels.apply_slices(
                    variable, list(state.values()), rows, learning_rate, self._scale * scale,
                    self.optimizer.formula, self.optimizer.rule_values,
                )  # fmt: skip
        return []

    def touched_rows(self, plan: ExchangePlan) -> np.ndarray:
        """Returns no row: checkpoints read SOK's rows only while training waits."""
        return np.zeros(0, np.int64)

    def stored_tables(self) -> StoredTables:
        """Returns what a checkpoint reads and writes of this rank's rows."""
        states = [None, *(state.name for state in self.optimizer.states)]
        return StoredTables(
            untracked=[self._stored(shard, state) for shard in self.shards for state in states]
        )

    def _stored(self, shard, state):
        def ids(begin, count):
            return shard.row_offset + shard.row_stride * np.arange(begin, begin + count)

        per_row = state in self.optimizer.per_row_states
        return StoredRows(
            shard,
            state or "table",
            (shard.rows,) if per_row else (shard.rows, self.placement.dimension),
            tf.float32,
            read=lambda begin, count: self.read_rows(shard.table, ids(begin, count), state),
            write=lambda begin, values: self.write_rows(
                shard.table, ids(begin, len(values)), values, state
            ),
        )

    def read_rows(self, table: int, ids: Any, state: str | None = None) -> np.ndarray:
        """Returns rows of a table as a float32 NumPy array, [n, D], or [n] for a state per row.

        Args:
            table: index of the table.
            ids: n ids, all owned by this rank.
            state: None for the rows, or the name of one of the optimizer's states.

        Raises:
            IndexError: this rank does not hold one of the ids.
        """
        variable, rows = self._find(table, ids, state)
        values = tf.raw_ops.ResourceGather(resource=variable.handle, indices=rows, dtype=tf.float32)
        return values.numpy()

    def write_rows(self, table: int, ids: Any, values: Any, state: str | None = None) -> None:
        """Overwrites rows with float32 values, [n, D] or [n]; the rest as for `read_rows`."""
        variable, rows = self._find(table, ids, state)
        tf.raw_ops.ResourceScatterUpdate(
            resource=variable.handle, indices=rows, updates=tf.convert_to_tensor(values)
        )

    def _find(self, table, ids, state):
        """Returns (variable, its rows) that hold ids of a table, or one of their states."""
        index = next((i for i, part in enumerate(self._parts) if table in part.tables), None)
        if index is None:
            raise IndexError(f"table {table}: there are {len(self.placement.vocab_sizes)} tables")
        ids = np.asarray(ids, np.int64)
        shard = next((s for s in self.shards if s.table == table), None)
        if shard is None:
            raise IndexError(f"table {table}: rank {self._rank} holds none of its rows")
        row, rest = np.divmod(ids - shard.row_offset, shard.row_stride)
        if np.any((rest != 0) | (row < 0) | (row >= shard.rows)):
            raise IndexError(f"table {table}: rank {self._rank} does not hold all of the ids")
        place, first = self._parts[index].place(table)
        if state is None:
            variable = self._parts[index].variables[place]
        elif state in self._states[index][place]:
            variable = self._states[index][place][state]
        else:
            raise KeyError(f"the optimizer has no state {state!r}")
        return variable, tf.constant(first + row)

    def _initialize(self, seed):
        """Writes the native backend's initial values, computed on the host in chunks."""
        sizes, dimension = self.placement.vocab_sizes, self.placement.dimension
        step = max(1, CHUNK_BYTES // (ROW_TYPES[DEFAULT] * dimension))
        for shard in self.shards:
            for begin in range(0, shard.rows, step):
                rows = min(step, shard.rows - begin)
                first = shard.row_offset + begin * shard.row_stride
                with tf.device("CPU:0"):
                    chunk = kernels.create_table(rows, dimension)
                    kernels.embedding_initialize(
                        chunk, base_row=0, rows=rows, table_index=shard.table, seed=seed,
                        limit=math.sqrt(1.0 / sizes[shard.table]), first_row=first,
                        row_stride=shard.row_stride,
                    )  # fmt: skip
                ids = first + shard.row_stride * np.arange(rows)
                self.write_rows(shard.table, ids, chunk)

    def _check_ids(self, ids):
        """Returns an op that fails if an id is outside its table; SOK would read other memory."""
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


def _check(placement, options):
    """Raises `BackendError` for what cannot take effect with SOK; docs/sok.md has the reasons."""
    unsupported = (*placement.column_wise_tables, *placement.replicated_tables)
    if unsupported:
        table = unsupported[0]
        kind = placement.assignments[table].kind
        raise BackendError(
            f"table {table}: SOK supports the placements 'table' and 'row', found {kind!r}; leave "
            "out --column_split and --replicate_below_rows, or use --embedding_backend=native",
            flag="placement",
            table=table,
        )
    table_wise = placement.table_wise_tables
    if table_wise and options.compress:
        raise BackendError(
            f"table {table_wise[0]}: --dedup_ids cannot be used with SOK's table-wise tables: "
            "lookup_sparse needs the same number of ids on every rank; use --placement=row, or "
            "leave --dedup_ids out",
            flag="dedup_ids",
            table=table_wise[0],
        )
    empty = [rank for rank in range(placement.ranks) if not placement.tables_of(rank)]
    if table_wise and empty:
        raise BackendError(
            f"rank {empty[0]} holds no table: SOK's lookup_sparse needs a table-wise table on "
            "every rank; use --placement=row or fewer ranks",
            flag="placement",
        )
