"""Model-parallel embedding tables on the project's own kernels.

Looking up, exchanging and updating are calls of the training step; no gradient of a large table
ever exists and no Keras optimizer sees the tables.
"""

import copy
import dataclasses

import numpy as np
import tensorflow as tf

from model.embedding.exchange import TableExchange
from model.embedding.placement import Placement
from model.embedding.row_exchange import RowExchange
from model.embedding.tables import FusedTables, ReplicatedTables
from ops.nvtx import phases, ranges


class OwnEmbedding:
    """All tables of a model, of which this rank holds its share.

    Args:
        placement: a `model.embedding.placement.Placement`.
        cluster: the ranks (`training.runtime.process_group`).
        local_batch_size: b, samples of this rank in each batch.
        seed, optimizer, native: as for `model.embedding.tables.FusedTables`.
        exchange_dtype: dtype in which vectors and their gradients travel.
        gradient: "mean": the loss is the mean over the global batch, so that N ranks optimise
            as one does. "sum": the gradient is N times as large, as in the SOK benchmark.
        model_parallel_input: batches hold the ids of this rank's tables for the global batch;
            only where `reads_own_tables(placement, compress)`.
        compress: ask for each row once a batch.

    Attributes:
        routes_ahead: `route` may be called before the update of the batch before.
    """

    routes_ahead = True

    def __init__(
        self,
        placement,
        cluster,
        local_batch_size,
        *,
        seed,
        optimizer="sgd",
        native=True,
        exchange_dtype=tf.float32,
        gradient="mean",
        model_parallel_input=False,
        compress=False,
    ):
        self.placement = placement
        self._dtype = tf.as_dtype(exchange_dtype)
        # The local loss is the mean over b = B / N samples, so its gradient is N times that of
        # the mean over B.
        self._scale = {"mean": 1.0 / cluster.size, "sum": 1.0}[gradient]
        self._replicated = None
        exchanged, self._exchanged_tables = placement, None
        if placement.replicated_tables:
            self._replicated = ReplicatedTables(placement, cluster, seed=seed, optimizer=optimizer)
            exchanged, self._exchanged_tables = _without(placement, self._replicated.tables)
        self._exchange, self._fused = None, None
        if exchanged is not None:
            self._place(
                exchanged, cluster, local_batch_size, model_parallel_input, compress,
                seed=seed, optimizer=optimizer, native=native,
            )  # fmt: skip

    def _place(self, placement, cluster, batch, model_parallel_input, compress, **options):
        shards = list(placement.shards_of(cluster.rank))
        if reads_own_tables(self.placement, compress):
            self._exchange = TableExchange(
                placement, cluster, batch, model_parallel_input=model_parallel_input
            )
            width, rows = placement.dimension, placement.rows_of(cluster.rank)
            first_rows = [shard.base_row for shard in shards]
        else:
            self._exchange = RowExchange(placement, cluster, batch, compress=compress)
            width, rows = self._exchange.width, self._exchange.rows
            first_rows = self._exchange.first_rows
        self._width = width
        if self._exchanged_tables is not None:
            # Initial values go by a table's number in the whole model.
            shards = [_renumbered(shard, self._exchanged_tables) for shard in shards]
        if rows:
            self._fused = FusedTables(self.placement, shards, first_rows, rows, width, **options)

    @property
    def holders(self):
        """The `FusedTables` of this rank, those of replicated tables included."""
        return [fused for fused in (self._fused, self.replicated) if fused is not None]

    @property
    def exchanged(self):
        """The `FusedTables` whose rows `changing` numbers, or None where this rank has none."""
        return self._fused

    @property
    def replicated(self):
        """The `FusedTables` of replicated tables, or None."""
        return None if self._replicated is None else self._replicated.fused

    def for_batch(self, local_batch_size):
        """Returns this embedding for batches of another size, over the same tables.

        Nothing is copied: an update through either is seen by both.

        Args:
            local_batch_size: samples of this rank in each batch.
        """
        other = copy.copy(self)
        if self._exchange is not None:
            other._exchange = self._exchange.for_batch(local_batch_size)
        return other

    def changing(self, routed):
        """Returns the rows of `exchanged` that `update` will change, int64 [n], repeated or not.

        Args:
            routed: what `route` returned, outside of a `tf.function`.
        """
        _, route = routed
        return (route.ids.numpy().astype(np.int64) + self._exchange.base_rows).reshape(-1)

    def route(self, categorical):
        """Brings ids to where their rows are; returns what `lookup` and `update` take.

        Args:
            categorical: int32 [b, T] ids of this rank's samples, or [B, T_r] with model-parallel
                input.
        """
        with tf.device("CPU:0"):  # where batches come from
            mark, categorical = ranges.start(phases.EXCHANGE_IDS, categorical)
        categorical, route = self.exchange_ids(categorical)
        ids = categorical if self._exchange is None else route.ids
        with tf.device("CPU:0" if ids is categorical else None):
            ids = ranges.end(mark, ids)
        if self._exchange is None:
            return ids, ()
        return categorical, route._replace(ids=ids)

    def exchange_ids(self, categorical):
        """Does what `route` does, without a range of that name."""
        if self._exchange is None:
            return categorical, ()
        ids = categorical
        if self._exchanged_tables is not None:
            ids = tf.gather(categorical, self._exchanged_tables, axis=1)
        return categorical, self._exchange.route(ids)

    def lookup(self, routed):
        """Returns the vectors of this rank's samples, [b, T, D] in the exchange dtype.

        Raises:
            tf.errors.InvalidArgumentError: an id is outside its table.
        """
        categorical, route = routed
        if self._exchange is None:
            mark, categorical = ranges.start(phases.LOOKUP, categorical)
            return ranges.end(mark, self.arrange((categorical, route), ()))
        mark, ids = ranges.start(phases.LOOKUP, route.ids)
        rows = ranges.end(mark, self.rows((categorical, route._replace(ids=ids))))
        mark, rows = ranges.start(phases.EXCHANGE_VECTORS, rows)
        return ranges.end(mark, self.arrange(routed, rows))

    def rows(self, routed):
        """Returns the vectors that this rank's rows give to all ranks: `lookup`'s first half."""
        _, route = routed
        if self._exchange is None:
            return ()
        if self._fused is None:
            return tf.zeros([*tf.unstack(tf.shape(route.ids)), self._width], self._dtype)
        exchange = self._exchange
        return self._fused.lookup(route.ids, exchange.base_rows, exchange.table_rows, self._dtype)

    def arrange(self, routed, rows):
        """Exchanges what `rows` returned; returns what `lookup` does."""
        categorical, route = routed
        parts = []
        if self._exchange is not None:
            parts.append(self._exchange.forward(rows, route))
        if self._replicated is None:
            return parts[0]
        parts.append(self._replicated.lookup(categorical, self._dtype))
        order = np.argsort([*(self._exchanged_tables or []), *self._replicated.tables])
        return tf.gather(tf.concat(parts, 1), order, axis=1)

    def update(self, routed, gradients, learning_rate, scale=1.0):
        """Applies the gradients of this rank's samples to the rows of all ranks.

        Args:
            routed: as for `lookup`.
            gradients: [b, T, D], the gradient of this rank's mean loss.
            learning_rate: scalar float32.
            scale: factor on the gradients, e.g. 1 / loss scale.
        """
        mark, gradients = ranges.start(phases.EXCHANGE_GRADIENTS, gradients)
        returned = ranges.end(mark, self.send_back(routed, gradients))
        mark, returned = ranges.start(phases.UPDATE_ROWS, returned)
        self.apply(routed, returned, learning_rate, scale)
        ranges.end_effects(mark)

    def send_back(self, routed, gradients):
        """Brings gradients [b, T, D] to the ranks of their rows: `update`'s first half."""
        _, route = routed
        gradients = tf.cast(gradients, self._dtype)
        replicated, exchanged = (), ()
        if self._replicated is not None:
            replicated = tf.gather(gradients, self._replicated.tables, axis=1)
        if self._exchange is not None:
            if self._exchanged_tables is not None:
                gradients = tf.gather(gradients, self._exchanged_tables, axis=1)
            exchanged = self._exchange.backward(gradients, route)
        return exchanged, replicated

    def apply(self, routed, returned, learning_rate, scale=1.0):
        """Applies what `send_back` returned; the other arguments are those of `update`."""
        categorical, route = routed
        exchanged, replicated = returned
        if self._replicated is not None:
            self._replicated.update(categorical, replicated, learning_rate, self._scale * scale)
        if self._fused is not None:
            exchange = self._exchange
            self._fused.update(
                route.ids, exchanged, exchange.base_rows, exchange.table_rows, learning_rate,
                self._scale * scale,
            )  # fmt: skip


def reads_own_tables(placement, compress):
    """Tells whether a rank needs no ids but those of its own tables, for the global batch."""
    whole = len(placement.table_wise_tables) == len(placement.vocab_sizes)
    return whole and not compress


def _without(placement, tables):
    """Returns (placement without these tables or None, indices of the tables that it has)."""
    rest = [t for t in range(len(placement.vocab_sizes)) if t not in tables]
    if not rest:
        return None, None
    return Placement(
        tuple(placement.vocab_sizes[t] for t in rest),
        placement.dimension,
        placement.ranks,
        tuple(placement.assignments[t] for t in rest),
        placement.optimizer_bytes_per_row,
    ), rest


def _renumbered(shard, tables):
    return dataclasses.replace(shard, table=tables[shard.table])
