"""The exchange for any mixture of placements: ranks request rows from their owners by row number.

Every (sample, table) pair needs one row of each piece of its table (the complete row, or two column
halves), and each such row has an owner and a row number in the owner's variable. This covers
table-wise, row-wise (owner = id mod N, row = id div N) and column-wise tables. The requested rows
travel in one alltoall, the vectors in one forward, their gradients in one backward.

With `compress`, a rank requests each row once per batch and sums the gradients of its repetitions
before sending them.

Shapes: b local batch, T tables, D embedding dimension, N ranks, M rows requested from a rank.
"""

from __future__ import annotations

import copy

import numpy as np
import tensorflow as tf

from model.embedding.interface import ExchangePlan, Ranks
from model.embedding.placement import Placement, PlacementError
from ops.route_rows import route_rows


class RowExchange:
    """Exchanges requested rows, their vectors and gradients.

    Args:
        placement: table-wise, row-wise and column-wise shards.
        cluster: the ranks (`training.runtime.process_group`).
        local_batch_size: b.
        compress: request each row once per batch.

    Attributes:
        width: columns of the owners' variables: D, or D / 2 if a table has column halves; a
            complete row is then two neighbouring rows of the variable.
        rows: rows of this rank's variable.
        first_rows: for each of this rank's shards, its first row in the variable.
    """

    def __init__(
        self, placement: Placement, cluster: Ranks, local_batch_size: int, *, compress: bool = False
    ):
        self._cluster = cluster
        self._batch = local_batch_size
        self._dimension = placement.dimension
        self._compress = compress
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
            categorical: int32 [b, T], ids of all tables.

        Returns:
            An `ExchangePlan` with ids [M, 1]: the rows of this rank's variable that all ranks
            request.

        Raises:
            tf.errors.InvalidArgumentError: an id is outside its table.
        """
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

    def exchange_vectors(self, plan: ExchangePlan, rows: tf.Tensor) -> tf.Tensor:
        """Sends looked-up rows to the ranks that requested them: [M, 1, width] -> [b, T, D]."""
        flat = tf.reshape(rows, [-1, self.width])
        flat, _ = self._cluster.alltoall(flat, plan.send_splits, "exchange_vectors")
        arranged = tf.gather(flat, plan.inverse_permutation)
        return tf.reshape(arranged, [self._batch, len(self._vocab_sizes), self._dimension])

    def exchange_gradients(self, plan: ExchangePlan, gradients: tf.Tensor) -> tf.Tensor:
        """Sends the gradients of vectors to the rows' owners: [b, T, D] -> [M, 1, width]."""
        flat = tf.reshape(gradients, [-1, self.width])
        if self._compress:
            # Not the size of `permutation`, which a GPU would copy to the host to count it.
            count = tf.reduce_sum(plan.recv_splits)
            summed = tf.math.unsorted_segment_sum(
                tf.cast(flat, tf.float32), plan.inverse_permutation, count
            )
            if gradients.dtype == tf.float16:
                # The sum of finite terms may exceed float16's range.
                summed = tf.clip_by_value(summed, tf.float16.min, tf.float16.max)
            flat = tf.cast(summed, gradients.dtype)
        else:
            flat = tf.gather(flat, plan.permutation)
        flat, _ = self._cluster.alltoall(flat, plan.recv_splits, "exchange_gradients")
        return flat[:, None, :]


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
