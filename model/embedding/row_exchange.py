"""The exchange for any mixture of placements: ranks request rows from their owners by row number.

Every (sample, table) pair needs one row of each piece of its table (the complete row, or two column
halves), and each such row has an owner and a row number in the owner's variable. This covers
table-wise, row-wise (owner = id mod N, row = id div N) and column-wise tables. The requested rows
travel in one alltoall, the vectors in one forward, their gradients in one backward.

With `compress`, a rank requests each row once per batch and sums the gradients of its repetitions
before sending them.

If a sample has several ids in a table, a request is for the sum of some rows of one owner
(`Dlrm>RouteBags`). For each (sample, table) pair, every owner of at least one of its rows returns
one *partial sum*, and the requesting rank adds these. With `compress`, it requests each row of a
table once instead, and adds rows, where these are not more vectors in its batch. The gradients take
the same way back.

For means, the owner divides a partial sum, and its gradient, by the number of ids of the complete
bag, which comes with the request, in float32: in float16 the sum of many rows could be infinite,
and a divided gradient 0. The requesting rank divides where it adds distinct rows.

Shapes: b local batch, T tables, D embedding dimension, N ranks, W slots of a sample's ids, M
requests that arrive at a rank.
"""

from __future__ import annotations

import copy

import numpy as np
import tensorflow as tf

from model.embedding.interface import ExchangePlan, Ranks
from model.embedding.placement import Placement, PlacementError
from ops.bags import Bags
from ops.embedding import RowIds
from ops.embedding.segment_sums import sparse_segment_sum
from ops.route_rows import route_bags, route_rows


class RowExchange:
    """Exchanges requested rows, their vectors and gradients.

    Args:
        placement: table-wise, row-wise and column-wise shards.
        cluster: the ranks (`training.runtime.process_group`).
        local_batch_size: b.
        compress: request each row once per batch.
        bags: the slots of all tables; None: one id each.

    Attributes:
        width: columns of the owners' variables: D, or D / 2 if a table has column halves; a
            complete row is then two neighbouring rows of the variable.
        rows: rows of this rank's variable.
        first_rows: for each of this rank's shards, its first row in the variable.
    """

    def __init__(
        self,
        placement: Placement,
        cluster: Ranks,
        local_batch_size: int,
        *,
        compress: bool = False,
        bags: Bags | None = None,
    ):
        self._cluster = cluster
        self._batch = local_batch_size
        self._dimension = placement.dimension
        self._compress = compress
        self._bags = None if bags is None or bags.is_one_hot else bags
        self._vocab_sizes = np.array(placement.vocab_sizes, np.int64)
        self.width = placement.dimension // (2 if placement.column_wise_tables else 1)
        self._pieces = placement.dimension // self.width
        first, sizes = _first_rows(placement, self.width)
        self.first_rows = [first[shard] for shard in placement.shards_of(cluster.rank)]
        self.rows = sizes[cluster.rank]
        self._describe(placement, first)
        self.base_rows = np.zeros(1, np.int64)
        self.table_rows = np.array([self.rows], np.int64)

    def _describe(self, placement, first):
        """Tabulates the owner, first row and row step of each piece of each table.

        `owner` is the rank of a complete table or a half, -1 for row-wise tables. The row of an id
        is base[owner] + step * (id, or id div N if row-wise).
        """
        tables, pieces, ranks = len(placement.vocab_sizes), self._pieces, self._cluster.size
        owner = np.full((tables, pieces), -1, np.int32)
        base = np.zeros((tables, pieces, ranks), np.int32)
        step = np.full((tables, pieces), pieces, np.int32)
        for table in range(tables):
            for shard in placement.shards_of_table(table):
                if shard.width == self.width and pieces == 2:
                    piece = shard.column_start // self.width
                    owner[table, piece] = shard.rank
                    base[table, piece, shard.rank] = first[shard]
                    step[table, piece] = 1
                    continue
                for piece in range(pieces):
                    base[table, piece, shard.rank] = first[shard] + piece
                    if shard.kind == "table":
                        owner[table, piece] = shard.rank
        self._owner, self._base, self._step = owner, base, step

    def for_batch(self, local_batch_size: int) -> RowExchange:
        """Returns this exchange for batches of another size."""
        other = copy.copy(self)
        other._batch = local_batch_size
        return other

    def plan_ids(self, categorical: tf.Tensor) -> ExchangePlan:
        """Requests the rows of this rank's samples from their owners.

        Args:
            categorical: int32 [b, W], ids of all tables.

        Returns:
            An `ExchangePlan` with ids [M, 1]: the rows of this rank's variable that all ranks
            request; if a sample has several ids in a table, with ids [n] and offsets.

        Raises:
            tf.errors.InvalidArgumentError: an id is outside its table.
        """
        if self._bags is not None:
            return self._plan_bags(categorical, self._bags)
        requests = route_rows(
            categorical, self._vocab_sizes, self._owner, self._base, self._step,
            ranks=self._cluster.size, unique=bool(self._compress),
        )  # fmt: skip
        rows, sent = self._cluster.alltoall(requests.rows, requests.requested, "exchange_rows")
        return ExchangePlan.of_ids(rows[:, None])._replace(
            send_splits=sent,
            recv_splits=requests.requested,
            permutation=requests.order,
            inverse_permutation=requests.position,
        )

    def _plan_bags(self, categorical, bags):
        requests = route_bags(
            categorical, bags, self._vocab_sizes, self._owner, self._base, self._step,
            ranks=self._cluster.size, unique=bool(self._compress),
        )  # fmt: skip
        alltoall = self._cluster.alltoall
        sizes = requests.sizes[:, None]
        if self._averages:
            sizes = tf.stack([requests.sizes, requests.divisors], 1)
        sizes, sent = alltoall(sizes, requests.requested, "exchange_bag_sizes")
        rows, _ = alltoall(requests.rows, requests.rows_requested, "exchange_rows")
        return ExchangePlan.of_ids(rows)._replace(
            send_splits=sent,
            recv_splits=requests.requested,
            permutation=requests.permutation,
            inverse_permutation=requests.inverse_permutation,
            offsets=tf.concat([tf.zeros([1], tf.int32), tf.cumsum(sizes[:, 0])], 0),
            bag_segments=requests.bag_segments,
            vector_segments=requests.vector_segments,
            counts=requests.counts,
            divisors=sizes[:, 1] if self._averages else requests.divisors,
        )

    def row_ids(self, plan: ExchangePlan) -> RowIds:
        """Returns the rows of this rank's variable that a plan looks up, as one table."""
        offsets = None if self._bags is None else plan.offsets
        return RowIds(plan.ids, self.base_rows, self.table_rows, offsets=offsets)

    def used_rows(self, plan: ExchangePlan) -> np.ndarray:
        """Returns the numbers of these rows, int64 [n]; not inside a `tf.function`."""
        return plan.ids.numpy().astype(np.int64).reshape(-1)

    def factors(self, plan: ExchangePlan) -> tf.Tensor | None:
        """Returns factors of looked-up vectors and of their gradients.

        Both must be multiplied in float32, a vector before it is rounded to the exchange dtype.

        Returns:
            float32 [M, 1, 1], or None if all are 1.
        """
        if not self._averages:
            return None
        return tf.math.reciprocal(tf.cast(plan.divisors, tf.float32))[:, None, None]

    def exchange_vectors(self, plan: ExchangePlan, rows: tf.Tensor) -> tf.Tensor:
        """Sends looked-up rows to the ranks that requested them: [M, 1, width] -> [b, T, D]."""
        flat = tf.reshape(rows, [-1, self.width])
        flat, _ = self._cluster.alltoall(flat, plan.send_splits, "exchange_vectors")
        shape = [self._batch, len(self._vocab_sizes), self._dimension]
        if self._bags is None:
            return tf.reshape(tf.gather(flat, plan.inverse_permutation), shape)
        # A gather would copy a vector for each contribution.
        pooled = tf.sparse.segment_sum(
            tf.cast(flat, tf.float32), plan.inverse_permutation, plan.bag_segments,
            num_segments=self._batch * len(self._vocab_sizes) * self._pieces,
        )  # fmt: skip
        pooled = tf.reshape(pooled, shape)
        return tf.cast(self._divided(plan, pooled), rows.dtype)

    def exchange_gradients(self, plan: ExchangePlan, gradients: tf.Tensor) -> tf.Tensor:
        """Sends the gradients of vectors to the rows' owners: [b, T, D] -> [M, 1, width]."""
        dtype = gradients.dtype
        if self._compress:
            divided = self._divided(plan, tf.cast(gradients, tf.float32))
            summed = self._sum_by_vector(plan, tf.reshape(divided, [-1, self.width]))
            if dtype == tf.float16:
                # The sum of finite terms may exceed float16's range.
                summed = tf.clip_by_value(summed, tf.float16.min, tf.float16.max)
            flat = tf.cast(summed, dtype)
        else:
            flat = tf.gather(tf.reshape(gradients, [-1, self.width]), plan.permutation)
        flat, _ = self._cluster.alltoall(flat, plan.recv_splits, "exchange_gradients")
        return flat[:, None, :]

    @property
    def _averages(self):
        return self._bags is not None and "mean" in self._bags.pooling

    def _divided(self, plan, values):
        """Returns float32 [b, T, D], divided where this rank adds distinct rows to average them."""
        if not (self._averages and self._compress):
            return values
        return values * tf.math.reciprocal(tf.cast(plan.counts, tf.float32))[:, :, None]

    def _sum_by_vector(self, plan, flat):
        """Returns the sum of the gradients [b * T * pieces, width] of each received vector."""
        # Not the size of `permutation`, which a GPU would copy to the host to count it.
        count = tf.reduce_sum(plan.recv_splits)
        if self._bags is None:
            return tf.math.unsorted_segment_sum(flat, plan.inverse_permutation, count)
        return sparse_segment_sum(flat, plan.permutation, plan.vector_segments, count)


def _first_rows(placement, width):
    """Returns ({shard: its first row}, [rows of each rank's variable]), rows of `width` columns."""
    first, sizes = {}, []
    for rank in range(placement.ranks):
        next_row = 0
        for shard in placement.shards_of(rank):
            first[shard] = next_row
            next_row += shard.rows * (shard.width // width)
        if next_row >= 2**31:
            raise PlacementError(
                f"rank {rank}: expected fewer than {2**31:,} rows of {width} columns, found "
                f"{next_row:,}; use more ranks",
                flag="placement",
                found=next_row,
                bound=2**31,
            )
        sizes.append(next_row)
    return first, sizes
