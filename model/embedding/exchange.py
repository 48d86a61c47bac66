"""The exchange of whole tables: ids reach the tables' owners, vectors come back.

Shapes: B global batch, b = B / N local batch, N ranks, T tables, T_r tables of rank r, D embedding
dimension. Everything is known before the run: which rank sends how many rows to which. A batch's
vectors travel in one alltoall forward and their gradients in one backward; where a rank reads its
tables' ids for the global batch itself, no id travels.
"""

import typing

import numpy as np
import tensorflow as tf


class Route(typing.NamedTuple):
    """A batch's way through the exchange, made by `route` and used by the calls after it.

    Attributes:
        ids: int32 [M, K], what this rank looks up.
        sent: int32 [N], rows that this rank's vectors bring to each rank; a constant or dynamic.
        requested: int32 [N], rows that each rank's vectors bring here.
        order, position: how requested rows and samples' (sample, table) pairs map to each other.
    """

    ids: tf.Tensor
    sent: tf.Tensor
    requested: tf.Tensor
    order: tf.Tensor
    position: tf.Tensor


class TableExchange:
    """The exchange where every table lies whole on one rank.

    Args:
        placement: a placement of table-wise shards only.
        cluster: the ranks (`training.runtime.process_group`).
        local_batch_size: b.
        model_parallel_input: batches hold the ids of this rank's tables for all samples, [B, T_r],
            instead of those of all tables for this rank's samples, [b, T].
    """

    def __init__(self, placement, cluster, local_batch_size, *, model_parallel_input=False):
        self._placement = placement
        self._cluster = cluster
        self._dimension = placement.dimension
        self._batch = local_batch_size
        self._model_parallel_input = model_parallel_input
        tables_by_rank = [list(placement.tables_of(rank)) for rank in range(cluster.size)]
        self._counts = [len(tables) for tables in tables_by_rank]
        self._tables = tables_by_rank[cluster.rank]
        self._table_order = np.array([t for tables in tables_by_rank for t in tables], np.int32)
        shards = placement.shards_of(cluster.rank)
        self.base_rows = np.array([shard.base_row for shard in shards], np.int64)
        self.table_rows = np.array([shard.rows for shard in shards], np.int64)
        batch = local_batch_size
        self._requested = np.array([batch * count for count in self._counts], np.int32)
        self._sent = np.full(cluster.size, batch * len(self._tables), np.int32)
        # Vectors arrive as [b, T_s, D] from each rank s in turn: where is each (sample, table)?
        begin, position = 0, np.empty((batch, len(self._table_order)), np.int32)
        for tables in tables_by_rank:
            block = np.arange(batch * len(tables), dtype=np.int32).reshape(batch, len(tables))
            position[:, tables] = begin + block
            begin += block.size
        self._position = position.reshape(-1)
        self._order = np.argsort(self._position).astype(np.int32)

    def for_batch(self, local_batch_size):
        """Returns the same exchange for batches of another size."""
        return TableExchange(
            self._placement, self._cluster, local_batch_size,
            model_parallel_input=self._model_parallel_input,
        )  # fmt: skip

    def route(self, categorical):
        """Brings ids to the ranks that own their tables.

        Args:
            categorical: int32 [b, T], or [B, T_r] with model-parallel input.

        Returns:
            A `Route` whose ids are [B, T_r], counted from 0 within each table.
        """
        ids = categorical
        if self._cluster.size > 1 and not self._model_parallel_input:
            ordered = tf.gather(categorical, self._table_order, axis=1)
            parts = tf.split(ordered, self._counts, axis=1)
            flat = tf.concat([tf.reshape(part, [-1]) for part in parts], 0)
            flat, _ = self._cluster.alltoall(flat, tf.constant(self._requested), "exchange_ids")
            ids = tf.reshape(flat, [self._batch * self._cluster.size, len(self._tables)])
        return Route(
            ids,
            tf.constant(self._sent),
            tf.constant(self._requested),
            tf.constant(self._order),
            tf.constant(self._position),
        )

    def forward(self, own, route):
        """Sends vectors to the ranks whose samples they are for: [B, T_r, D] -> [b, T, D]."""
        if self._cluster.size == 1:
            return own
        flat = tf.reshape(own, [-1, self._dimension])
        flat, _ = self._cluster.alltoall(flat, route.sent, "exchange_vectors")
        arranged = tf.gather(flat, route.position)
        return tf.reshape(arranged, [self._batch, len(self._table_order), self._dimension])

    def backward(self, gradients, route):
        """Sends the vectors' gradients back: [b, T, D] -> [B, T_r, D]."""
        if self._cluster.size == 1:
            return gradients
        flat = tf.gather(tf.reshape(gradients, [-1, self._dimension]), route.order)
        flat, _ = self._cluster.alltoall(flat, route.requested, "exchange_gradients")
        rows = self._batch * self._cluster.size
        return tf.reshape(flat, [rows, len(self._tables), self._dimension])
