"""Model-parallel embedding tables on the project's own kernels.

Each rank keeps its share of the tables back to back in one float32 variable. Looking up,
exchanging and updating are calls of the training step; no gradient of a whole table ever exists
and no Keras optimizer sees the tables.
"""

import math

import tensorflow as tf

from model.embedding.exchange import TableExchange
from model.embedding.row_exchange import RowExchange
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
        model_parallel_input: batches hold the ids of this rank's tables for the global batch;
            only where `reads_own_tables(placement, compress)`.
        compress: ask for each row once a batch.
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
        model_parallel_input=False,
        compress=False,
    ):
        self.placement = placement
        self._exchange_dtype = tf.as_dtype(exchange_dtype)
        self._lookup = kernels.embedding_lookup
        self._update = kernels.embedding_update_sgd
        if not native:
            self._lookup = kernels.embedding_lookup_tensorflow
            self._update = kernels.embedding_update_sgd_tensorflow
        # The local loss is the mean over b = B / N samples, so its gradient is N times that of
        # the mean over B.
        self._scale = {"mean": 1.0 / cluster.size, "sum": 1.0}[gradient]
        self.shards = placement.shards_of(cluster.rank)
        if reads_own_tables(placement, compress):
            self._exchange = TableExchange(
                placement, cluster, local_batch_size, model_parallel_input=model_parallel_input
            )
            self._width = placement.dimension
            self._first_rows = [shard.base_row for shard in self.shards]
            rows = placement.rows_of(cluster.rank)
        else:
            self._exchange = RowExchange(placement, cluster, local_batch_size, compress=compress)
            self._width = self._exchange.width
            self._first_rows = self._exchange.first_rows
            rows = self._exchange.rows
        self.table = self._create(rows, seed) if rows else None

    def _create(self, rows, seed):
        table = kernels.create_table(rows, self._width)
        for shard, first in zip(self.shards, self._first_rows):
            kernels.embedding_initialize(
                table,
                base_row=first,
                rows=shard.rows,
                table_index=shard.table,
                seed=seed,
                first_row=shard.row_offset,
                row_stride=shard.row_stride,
                limit=math.sqrt(1.0 / self.placement.vocab_sizes[shard.table]),
            )
        return table

    def route(self, categorical):
        """Returns the `exchange.Route` of a batch.

        Args:
            categorical: int32 [b, T] ids of this rank's samples, or [B, T_r] with model-parallel
                input.
        """
        return self._exchange.route(categorical)

    def lookup(self, route):
        """Returns the vectors of this rank's samples, [b, T, D] in the exchange dtype.

        Raises:
            tf.errors.InvalidArgumentError: an id is outside its table.
        """
        exchange = self._exchange
        if self.table is None:
            own = tf.zeros([*route.ids.shape, self._width], self._exchange_dtype)
        else:
            own = self._lookup(
                self.table,
                route.ids,
                exchange.base_rows,
                exchange.table_rows,
                dtype=self._exchange_dtype,
            )
        return exchange.forward(own, route)

    def update(self, route, gradients, learning_rate):
        """Applies the gradients of this rank's samples to the rows of all ranks.

        Args:
            route: as for `lookup`.
            gradients: [b, T, D], the gradient of this rank's mean loss.
            learning_rate: scalar float32.
        """
        exchange = self._exchange
        own = exchange.backward(tf.cast(gradients, self._exchange_dtype), route)
        if self.table is not None:
            self._update(
                self.table,
                route.ids,
                own,
                exchange.base_rows,
                exchange.table_rows,
                learning_rate,
                scale=self._scale,
            )


def reads_own_tables(placement, compress):
    """Tells whether a rank needs no ids but those of its own tables, for the global batch."""
    whole = len(placement.table_wise_tables) == len(placement.vocab_sizes)
    return whole and not compress
