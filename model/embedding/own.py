"""Model-parallel embedding tables on the project's own kernels.

Each rank keeps its tables back to back in one float32 variable [rows, D]. Looking up, exchanging
and updating are three calls of the training step; no gradient of a whole table ever exists and
no Keras optimizer sees the tables.
"""

import math

import numpy as np
import tensorflow as tf

from model.embedding.exchange import TableExchange
from ops import embedding as kernels


class OwnEmbedding:
    """All tables of a model, of which this rank holds its share.

    Args:
        placement: a `model.embedding.placement.Placement`.
        cluster: the ranks (`training.cluster`).
        local_batch_size: b, samples of this rank in each batch.
        seed: the run's seed. Row i of table t starts with the same values U(-sqrt(1 / rows),
            sqrt(1 / rows)) whatever the placement.
        exchange_dtype: dtype in which vectors and their gradients travel.
        gradient: "mean": the loss is the mean over the global batch, so that N ranks optimise
            as one does. "sum": the gradient is N times as large, as in the SOK benchmark.
        native: the project's ops; False takes TensorFlow's formulation of them.
    """

    def __init__(
        self,
        placement,
        cluster,
        local_batch_size,
        *,
        seed,
        exchange_dtype=tf.float32,
        gradient="mean",
        native=True,
    ):
        self.placement = placement
        self.dimension = placement.dimension
        self._cluster = cluster
        self._exchange_dtype = tf.as_dtype(exchange_dtype)
        self._lookup = kernels.embedding_lookup
        self._update = kernels.embedding_update_sgd
        if not native:
            self._lookup = kernels.embedding_lookup_tensorflow
            self._update = kernels.embedding_update_sgd_tensorflow
        # The local loss is the mean over b = B / N samples, so its gradient is N times that of
        # the mean over B.
        self._scale = {"mean": 1.0 / cluster.size, "sum": 1.0}[gradient]
        tables = [list(placement.tables_of(rank)) for rank in range(cluster.size)]
        self.exchange = TableExchange(tables, cluster, local_batch_size, self.dimension)
        self.shards = placement.shards_of(cluster.rank)
        self._base_rows = np.array([shard.base_row for shard in self.shards], np.int64)
        self._table_rows = np.array([shard.rows for shard in self.shards], np.int64)
        self.table = self._create(seed) if self.shards else None

    @property
    def tables(self):
        """Indices of the tables that this rank owns, in the order of its rows."""
        return self.exchange.tables

    @property
    def bytes(self):
        """Bytes of this rank's tables."""
        return int(self._table_rows.sum()) * self.dimension * 4

    def _create(self, seed):
        table = kernels.create_table(int(self._table_rows.sum()), self.dimension)
        for shard in self.shards:
            kernels.embedding_initialize(
                table,
                base_row=shard.base_row,
                rows=shard.rows,
                table_index=shard.table,
                seed=seed,
                first_row=shard.row_offset,
                row_stride=shard.row_stride,
                limit=math.sqrt(1.0 / self.placement.vocab_sizes[shard.table]),
            )
        return table

    def route(self, categorical):
        """Returns [B, T_r] ids of this rank's tables from [b, T] ids of this rank's samples."""
        return self.exchange.ids(categorical)

    def lookup(self, ids):
        """Returns the vectors of this rank's samples.

        Args:
            ids: [B, T_r], this rank's tables, all samples.

        Returns:
            [b, T, D] in the exchange dtype.

        Raises:
            tf.errors.InvalidArgumentError: an id is outside its table.
        """
        if self.table is None:
            own = tf.zeros([ids.shape[0], 0, self.dimension], self._exchange_dtype)
        else:
            own = self._lookup(
                self.table, ids, self._base_rows, self._table_rows, dtype=self._exchange_dtype
            )
        return self.exchange.vectors(own)

    def update(self, ids, gradients, learning_rate):
        """Applies the gradients of this rank's samples to the rows of all ranks.

        Args:
            ids: as for `lookup`.
            gradients: [b, T, D], the gradient of this rank's mean loss.
            learning_rate: scalar float32.
        """
        own = self.exchange.gradients(tf.cast(gradients, self._exchange_dtype))
        if self.table is not None:
            self._update(
                self.table,
                ids,
                own,
                self._base_rows,
                self._table_rows,
                learning_rate,
                scale=self._scale,
            )
