"""Small tables of which every rank holds a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from model.embedding.interface import Ranks
from model.embedding.optimizers import RowOptimizer
from model.embedding.placement import Placement
from model.embedding.tables import FusedTables
from ops import embedding as kernels
from ops.bags import EMPTY, Bags


class ReplicatedTables:
    """Small tables of which every rank holds a copy: only gradients are exchanged.

    Args:
        placement: a placement with replicated tables.
        cluster: the ranks (`training.runtime.process_group`).
        seed, optimizer, native, deterministic: as for `FusedTables`.
        bags: the slots of the R replicated tables, W_R in all; None: one id each.

    Attributes:
        tables: indices of the replicated tables, int64.
        fused: their `FusedTables`.
    """

    def __init__(
        self,
        placement: Placement,
        cluster: Ranks,
        *,
        seed: int,
        optimizer: str | RowOptimizer = "sgd",
        native: bool = True,
        deterministic: bool = False,
        bags: Bags | None = None,
    ):
        self._cluster = cluster
        self.tables = np.array(placement.replicated_tables, np.int64)
        shards = [s for s in placement.shards_of(cluster.rank) if s.kind == "replicated"]
        sizes = [shard.rows for shard in shards]
        self._base = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._sizes = np.array(sizes, np.int64)
        self.fused = FusedTables(
            placement, shards, [int(b) for b in self._base[:-1]], int(self._base[-1]),
            placement.dimension, seed=seed, optimizer=optimizer, native=native,
            deterministic=deterministic,
        )  # fmt: skip
        self._bags = None if bags is None or bags.is_one_hot else bags
        self._sums: tf.Variable | None = None
        self._native, self._deterministic = native, deterministic
        if self._bags is not None:
            self._sums = tf.Variable(tf.zeros_like(self.fused.table), trainable=False)

    def lookup(self, ids: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Returns [b, R, D] from the ids [b, W_R] of the replicated tables."""
        return self.fused.lookup(self._where(ids), dtype)

    def _where(self, ids):
        return kernels.RowIds(ids, self._base[:-1], self._sizes, self._bags)

    def touched_rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the rows that occur in any rank's samples, int32 [n, 1]. Collective.

        Args:
            ids: [b, W_R], in host memory: the number of rows is needed there.
        """
        if self._bags is None:
            rows = tf.cast(ids, tf.int64) + self._base[:-1]
        else:
            rows = tf.cast(ids, tf.int64) + self._base[self._bags.feature_of_slots()]
            # Negative segments are not added.
            rows = tf.where(ids == EMPTY, tf.constant(-1, tf.int64), rows)
        ones = tf.ones_like(rows, tf.float32)
        uses = tf.math.unsorted_segment_sum(ones, rows, int(self._base[-1]))
        (uses,) = self._cluster.all_reduce_mean([uses], "replicated_rows")
        return tf.cast(tf.where(uses > 0), tf.int32)

    def exchange_gradients(
        self, ids: tf.Tensor, touched_rows: tf.Tensor, gradients: tf.Tensor
    ) -> tf.Tensor:
        """Returns the sums of all ranks' gradients by row, float32 [n, 1, D]. Collective.

        Args:
            ids: [b, W_R].
            touched_rows: [n, 1], the rows to return.
            gradients: [b, R, D], of this rank's mean loss.
        """
        if self._sums is None:
            rows = tf.cast(ids, tf.int64) + self._base[:-1]
            gradients = tf.cast(gradients, tf.float32)
            sums = tf.math.unsorted_segment_sum(gradients, rows, int(self._base[-1]))
        else:
            sums = self._sum_bags(self._sums, self._where(ids), gradients)
        (mean,) = self._cluster.all_reduce_mean([sums], "replicated_gradients")
        return tf.gather(mean, touched_rows) * self._cluster.size

    def _sum_bags(self, sums, where, gradients):
        """Returns the sums of gradients [b, R, D] by row, without one for each id: SGD on zeros."""
        sums.assign(tf.zeros_like(sums))
        if self._native:
            rule = kernels.RowRule("sgd", (), self._deterministic)
            kernels.embedding_update(sums, [], where, gradients, -1.0, rule=rule)
        else:
            kernels.embedding_update_tensorflow(sums, [], where, gradients, -1.0)
        return tf.convert_to_tensor(sums)

    def update(
        self,
        touched_rows: tf.Tensor,
        sums: tf.Tensor,
        learning_rate: Any,
        scale: Any,
        *,
        side_stream: bool = False,
    ) -> tf.Operation | None:
        """Updates the touched rows of this rank's copy with the result of `exchange_gradients`.

        Other rows stay as they are: some optimizers change a row even if its gradient is 0. The
        rest is as for `FusedTables.update`.
        """
        where = kernels.RowIds(touched_rows, np.zeros(1, np.int64), self._base[-1:])
        return self.fused.update(where, sums, learning_rate, scale, side_stream=side_stream)
