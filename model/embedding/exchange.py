"""How ids reach the ranks that own their rows, and how the vectors come back.

Shapes: B global batch, b = B / N local batch, N ranks, T tables, T_r tables of rank r, D embedding
dimension. Rank r holds whole tables; a batch's vectors travel in one alltoall forward and their
gradients in one backward.
"""

import numpy as np
import tensorflow as tf


class TableExchange:
    """The exchange where every table lies whole on one rank.

    Args:
        tables_by_rank: for each rank, the list of tables that it owns, in the order of its rows.
        cluster: the ranks (`training.cluster`).
        local_batch_size: b.
        dimension: D.
    """

    def __init__(self, tables_by_rank, cluster, local_batch_size, dimension):
        self._cluster = cluster
        self._dimension = dimension
        self._batch = local_batch_size
        self._counts = [len(tables) for tables in tables_by_rank]
        self._order = np.array([t for tables in tables_by_rank for t in tables], np.int32)
        self.tables = list(tables_by_rank[cluster.rank])
        batch, size = local_batch_size, cluster.size
        own = self._counts[cluster.rank]
        self._id_splits = np.array([batch * count for count in self._counts], np.int32)
        self._vector_splits = np.full(size, batch * own, np.int32)
        # Vectors arrive as [b, T_s, D] from each rank s in turn; this is where each (sample,
        # table) finds its own among the b * T rows.
        begin, position = 0, np.empty((batch, len(self._order)), np.int32)
        for tables in tables_by_rank:
            count = len(tables)
            block = begin + np.arange(batch * count, dtype=np.int32).reshape(batch, count)
            position[:, tables] = block
            begin += batch * count
        self._arrange = position.reshape(-1)
        self._disarrange = np.argsort(self._arrange).astype(np.int32)

    def ids(self, categorical):
        """Sends the ids of this rank's slice to the tables' owners.

        Args:
            categorical: [b, T] int32, all tables.

        Returns:
            [B, T_r] int32: this rank's tables, all samples.
        """
        if self._cluster.size == 1:
            return categorical if self._in_order() else tf.gather(categorical, self.tables, axis=1)
        ordered = tf.gather(categorical, self._order, axis=1)
        parts = tf.split(ordered, self._counts, axis=1)
        flat = tf.concat([tf.reshape(part, [-1]) for part in parts], 0)
        received = self._cluster.alltoall(flat, tf.constant(self._id_splits), "exchange_ids")
        return tf.reshape(received, [self._batch * self._cluster.size, len(self.tables)])

    def vectors(self, own):
        """Sends looked-up vectors to the ranks whose samples they are for.

        Args:
            own: [B, T_r, D].

        Returns:
            [b, T, D], tables in their own order.
        """
        if self._cluster.size == 1 and self._in_order():
            return own
        flat = tf.reshape(own, [-1, self._dimension])
        flat = self._cluster.alltoall(flat, tf.constant(self._vector_splits), "exchange_vectors")
        arranged = tf.gather(flat, self._arrange)
        return tf.reshape(arranged, [self._batch, len(self._order), self._dimension])

    def gradients(self, gradients):
        """Sends the vectors' gradients back: [b, T, D] -> [B, T_r, D]."""
        if self._cluster.size == 1 and self._in_order():
            return gradients
        flat = tf.gather(tf.reshape(gradients, [-1, self._dimension]), self._disarrange)
        flat = self._cluster.alltoall(flat, tf.constant(self._id_splits), "exchange_gradients")
        rows = self._batch * self._cluster.size
        return tf.reshape(flat, [rows, len(self.tables), self._dimension])

    def _in_order(self):
        return self.tables == sorted(self.tables)
