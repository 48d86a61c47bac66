"""Model-parallel embedding tables held by SparseOperationKit (SOK), as `OwnEmbedding` holds them.

SOK brings ids to rows and vectors back, and computes the gradients of its variables; the rest is
here: keys, duplicates, scale, the update of the rows, initial values, reading and writing rows.
`sok2` and `sok1` make the calls to SOK 2.x and 1.x. docs/sok.md says what was run and what was
only read.

Shapes: b local batch, T tables, D embedding dimension, N ranks.
"""

import copy
import math

import numpy as np
import tensorflow as tf

from model.embedding.backend import BackendError
from model.embedding.optimizers import find
from model.embedding.row_types import DEFAULT, ROW_TYPES
from model.embedding.sok1 import Sok1Rows, start_sok1
from model.embedding.sok2 import Sok2Rows, Sok2Tables, start_sok2
from model.embedding.sok_checks import check
from model.embedding.sok_steps import LookupStep, apply_rows, create_states
from ops import embedding as kernels
from ops.nvtx import phases, ranges

CHUNK_BYTES = 64 << 20


def start(sok, api, cluster, local_batch_size):
    """Initialises SOK, before the first `SokEmbedding`; arguments as for that.

    Raises:
        BackendError: Horovod is missing or sees other ranks.
    """
    if api == 1:
        start_sok1(sok, cluster, local_batch_size)
    else:
        start_sok2(sok, cluster)


class SokEmbedding:
    """All tables of a model, of which SOK keeps this rank's share.

    Row-wise tables lie in one SOK variable. Table t has the keys first_key[t] + id with
    first_key[t] a multiple of N, so that SOK's map of a key (owner = key mod N, row = key div N)
    gives each id the owner and the order that a row-wise `Placement` gives it. Whole tables
    (SOK 2.x) are one variable each.

    Args:
        sok: the module `sparse_operation_kit`, initialised by `start`.
        api: 2 or 1, whose calls it has.
        placement: a `model.embedding.placement.Placement` of row-wise or whole tables.
        cluster: the ranks (`training.cluster`).
        local_batch_size: b.
        seed: as for `OwnEmbedding`: the same initial values, whatever the backend.
        exchange_dtype: dtype of what `lookup` returns. SOK's vectors travel as float32, but for
            SOK 1.x with float16.
        gradient: "mean" or "sum", as for `OwnEmbedding`.
        compress: ask for each row once a batch; row-wise tables only.
        optimizer: a name in `model.embedding.optimizers.OPTIMIZERS`, or a `RowOptimizer`.

    Raises:
        BackendError: the placement or an option cannot take effect with SOK.
    """

    # A route holds the tape of its lookup, which lives in one function alone.
    routes_ahead = False

    def __init__(
        self,
        sok,
        api,
        placement,
        cluster,
        local_batch_size,
        *,
        seed,
        exchange_dtype=tf.float32,
        gradient="mean",
        compress=False,
        optimizer="sgd",
    ):
        check(api, placement, cluster, compress, optimizer)
        self.placement = placement
        self._cluster = cluster
        self._batch = local_batch_size
        self._exchange_dtype = tf.as_dtype(exchange_dtype)
        # The local loss is the mean over b = B / N samples: N times the gradient of that over B.
        self._scale = {"mean": 1.0 / cluster.size, "sum": 1.0}[gradient]
        self._compress = compress
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
        self._initialize(seed)

    def for_batch(self, local_batch_size):
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

    def route(self, categorical):
        """Returns the `Route` of a batch.

        Args:
            categorical: int32 [b, T] ids of this rank's samples.

        Raises:
            tf.errors.InvalidArgumentError: an id is outside its table.
        """
        with tf.control_dependencies([self._check_ids(categorical)]):
            return Route(tf.cast(tf.identity(categorical), tf.int64))

    def lookup(self, route):
        """Returns the vectors of this rank's samples, [b, T, D] in the exchange dtype.

        The route keeps what `update` needs.
        """
        mark, ids = ranges.start(phases.LOOKUP_AND_EXCHANGE, route.ids)
        route.steps = [self._lookup(part, ids) for part in self._parts]
        vectors = tf.concat([step.expand(self._exchange_dtype) for step in route.steps], axis=1)
        if self._table_order is not None:
            vectors = tf.gather(vectors, self._table_order, axis=1)
        shape = [self._batch, len(self.placement.vocab_sizes), self.placement.dimension]
        return ranges.end(mark, tf.reshape(vectors, shape))

    def update(self, route, gradients, learning_rate, scale=1.0):
        """Applies the gradients of this rank's samples to the rows of all ranks.

        Args:
            route: as given to `lookup`, in the same step.
            gradients: [b, T, D], the gradient of this rank's mean loss.
            learning_rate: scalar float32.
            scale: factor on the gradients, e.g. 1 / loss scale.
        """
        if route.steps is None:
            raise ValueError("update was called with a route that lookup has not seen")
        mark, gradients = ranges.start(phases.EXCHANGE_AND_UPDATE, gradients)
        for index, (part, step) in enumerate(zip(self._parts, route.steps)):
            slices = step.gradients(tf.gather(gradients, part.tables, axis=1), part.variables)
            with part.rows_visible():
                for place, (variable, rows) in enumerate(zip(part.variables, slices)):
                    apply_rows(
                        variable, self._states[index][place], rows, learning_rate,
                        self._scale * scale, self._optimizer,
                    )  # fmt: skip
        ranges.end_effects(mark)
        route.steps = None

    @property
    def states(self):
        """Names of what there is for each row: "table", and the optimizer's states."""
        return ("table", *(state.name for state in self._optimizer.states))

    def row_shape(self, state=None):
        """Returns the shape of one row's values, (D,), or () for a state per row."""
        if state in self._optimizer.per_row_states:
            return ()
        return (self.placement.dimension,)

    def read_rows(self, table, ids, state=None):
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

    def write_rows(self, table, ids, values, state=None):
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
        """Writes the own backend's initial values, computed on the host, chunk by chunk."""
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
        sample, table = first // tables, first % tables
        text = tf.strings.format(
            "table {}, sample {}: id {} is outside [0, {})",
            [table, sample, tf.reshape(ids, [-1])[first], bounds[table]],
        )
        return tf.debugging.Assert(tf.logical_not(tf.reduce_any(bad)), [text])


class Route:
    """A batch on its way: its ids, then what `lookup` leaves for `update`."""

    def __init__(self, ids):
        self.ids = ids
        self.steps = None
