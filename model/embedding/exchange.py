"""The exchange for table-wise placements: ids go to the tables' owners, vectors come back.

All splits are known before the run. A batch's vectors travel in one alltoall forward, their
gradients in one backward. If each rank reads the ids of its tables for the global batch, no id
travels. If a sample has several ids in a table, the owner pools their rows, so that only the
exchange of ids grows.

Shapes: B global batch, b = B / N local batch, N ranks, T tables, T_r tables of rank r, D embedding
dimension, W slots of a sample's ids, W_r of the tables of rank r.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from model.embedding.interface import ExchangePlan, Ranks
from model.embedding.placement import Placement
from ops.bags import EMPTY, Bags
from ops.embedding import RowIds


class TableExchange:
    """Exchanges ids, vectors and gradients when every table is on one rank.

    Args:
        placement: a placement of table-wise shards only.
        cluster: the ranks (`training.runtime.process_group`).
        local_batch_size: b.
        model_parallel_input: batches hold the ids of this rank's tables for all samples, [B, W_r],
            instead of those of all tables for this rank's samples, [b, W].
        bags: the slots of all tables; None: one id each.
    """

    def __init__(
        self,
        placement: Placement,
        cluster: Ranks,
        local_batch_size: int,
        *,
        model_parallel_input: bool = False,
        bags: Bags | None = None,
    ):
        self._placement = placement
        self._cluster = cluster
        self._dimension = placement.dimension
        self._batch = local_batch_size
        self._model_parallel_input = model_parallel_input
        tables_by_rank = [list(placement.tables_of(rank)) for rank in range(cluster.size)]
        self._tables = tables_by_rank[cluster.rank]
        order = [table for tables in tables_by_rank for table in tables]
        self._table_count = len(order)
        self._bags = bags or Bags.one_hot(len(order))
        self._rank_bags = [self._bags.select(tables) for tables in tables_by_rank]
        self._own_bags = self._rank_bags[cluster.rank]
        self._slot_order = np.array(self._bags.slots_of(order), np.int32)
        shards = placement.shards_of(cluster.rank)
        self.base_rows = np.array([shard.base_row for shard in shards], np.int64)
        self.table_rows = np.array([shard.rows for shard in shards], np.int64)
        batch = local_batch_size
        self._recv_splits = np.array([batch * len(tables) for tables in tables_by_rank], np.int32)
        self._send_splits = np.full(cluster.size, batch * len(self._tables), np.int32)
        # Vectors arrive as [b, T_s, D] from each rank s in turn; position[sample, table] is the
        # index of its vector. int64 constants of a GPU's graph are in its memory, int32 ones are
        # not.
        begin, position = 0, np.empty((batch, len(order)), np.int64)
        for tables in tables_by_rank:
            block = np.arange(batch * len(tables)).reshape(batch, len(tables))
            position[:, tables] = begin + block
            begin += block.size
        self._inverse_permutation = position.reshape(-1)
        self._permutation = np.argsort(self._inverse_permutation)

    def for_batch(self, local_batch_size: int) -> TableExchange:
        """Returns this exchange for batches of another size."""
        return TableExchange(
            self._placement, self._cluster, local_batch_size,
            model_parallel_input=self._model_parallel_input, bags=self._bags,
        )  # fmt: skip

    def plan_ids(self, categorical: tf.Tensor) -> ExchangePlan:
        """Sends ids to the ranks that own their tables.

        Args:
            categorical: int32 [b, W], or [B, W_r] with model-parallel input.

        Returns:
            An `ExchangePlan` with ids [B, W_r], which count from 0 within each table.
        """
        ids = categorical
        if self._cluster.size > 1 and not self._model_parallel_input:
            ordered = tf.gather(categorical, self._slot_order, axis=1)
            slots = [bags.slots for bags in self._rank_bags]
            parts = tf.split(ordered, slots, axis=1)
            flat = tf.concat([tf.reshape(part, [-1]) for part in parts], 0)
            splits = tf.constant([self._batch * count for count in slots], tf.int32)
            flat, _ = self._cluster.alltoall(flat, splits, "exchange_ids")
            ids = tf.reshape(flat, [self._batch * self._cluster.size, self._own_bags.slots])
        return ExchangePlan.of_ids(ids)._replace(
            send_splits=tf.constant(self._send_splits),
            recv_splits=tf.constant(self._recv_splits),
        )

    def row_ids(self, plan: ExchangePlan) -> RowIds:
        """Returns the rows of this rank's variable that a plan looks up: B samples, T_r tables."""
        bags = None if self._own_bags.is_one_hot else self._own_bags
        return RowIds(plan.ids, self.base_rows, self.table_rows, bags)

    def used_rows(self, plan: ExchangePlan) -> np.ndarray:
        """Returns the numbers of these rows, int64 [n]; not inside a `tf.function`."""
        ids = plan.ids.numpy().astype(np.int64)
        rows = ids + self.base_rows[self._own_bags.feature_of_slots()]
        return rows[ids != EMPTY]

    def factors(self, plan: ExchangePlan) -> tf.Tensor | None:
        """Returns None: looked-up vectors, and their gradients, need no factors."""
        return None

    def exchange_vectors(self, plan: ExchangePlan, rows: tf.Tensor) -> tf.Tensor:
        """Sends vectors to the ranks of their samples: [B, T_r, D] -> [b, T, D]."""
        if self._cluster.size == 1:
            return rows
        flat = tf.reshape(rows, [-1, self._dimension])
        flat, _ = self._cluster.alltoall(flat, plan.send_splits, "exchange_vectors")
        arranged = tf.gather(flat, self._inverse_permutation)
        return tf.reshape(arranged, [self._batch, self._table_count, self._dimension])

    def exchange_gradients(self, plan: ExchangePlan, gradients: tf.Tensor) -> tf.Tensor:
        """Sends the gradients of vectors to the tables' owners: [b, T, D] -> [B, T_r, D]."""
        if self._cluster.size == 1:
            return gradients
        flat = tf.gather(tf.reshape(gradients, [-1, self._dimension]), self._permutation)
        flat, _ = self._cluster.alltoall(flat, plan.recv_splits, "exchange_gradients")
        rows = self._batch * self._cluster.size
        return tf.reshape(flat, [rows, len(self._tables), self._dimension])
