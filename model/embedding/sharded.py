"""Model-parallel embedding tables on the project's kernels.

Updates are fused and in place: no dense gradient of an exchanged table is ever allocated.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from model.embedding import stored_rows
from model.embedding.exchange import TableExchange
from model.embedding.interface import EmbeddingOptions, ExchangePlan, Ranks, SideStream
from model.embedding.optimizers import find
from model.embedding.placement import Placement
from model.embedding.replicated import ReplicatedTables
from model.embedding.row_exchange import RowExchange
from model.embedding.shards import Shard
from model.embedding.tables import FusedTables
from ops.bags import Bags


class ShardedEmbedding:
    """Implements `model.embedding.interface.Embedding` with the project's kernels.

    Args:
        placement: which rank holds which rows.
        cluster: the ranks.
        local_batch_size: b, samples of this rank in each batch.
        options: seed, optimizer and exchange. Model-parallel input requires
            `exchanges_complete_tables(placement, options.compress)`.

    Raises:
        ValueError: the bags are of another number of tables.
    """

    separable = True
    side_stream = SideStream()

    def __init__(
        self,
        placement: Placement,
        cluster: Ranks,
        local_batch_size: int,
        options: EmbeddingOptions,
    ):
        self.placement = placement
        self._ranks = cluster.size
        self._dtype = options.exchange_dtype
        self._side_stream = options.side_stream
        self._scale = options.gradient_scale(cluster.size)
        self.optimizer = find(options.optimizer)
        self._replicated: ReplicatedTables | None = None
        # As int64 arrays: with int32 indices, a GPU's gather would copy them to it in each step.
        exchanged, self._exchanged_tables = placement, None
        bags = options.bags or Bags.one_hot(len(placement.vocab_sizes))
        if bags.features != len(placement.vocab_sizes):
            raise ValueError(
                f"bags: expected one for each of {len(placement.vocab_sizes)} tables, found "
                f"{bags.features}"
            )
        exchanged_bags = bags
        if placement.replicated_tables:
            self._replicated = ReplicatedTables(
                placement, cluster, seed=options.seed, optimizer=options.optimizer,
                native=options.native_kernels, deterministic=options.deterministic,
                bags=bags.select(placement.replicated_tables),
            )  # fmt: skip
            self._replicated_slots = np.array(bags.slots_of(placement.replicated_tables), np.int64)
            exchanged, self._exchanged_tables = _without(placement, self._replicated.tables)
            if self._exchanged_tables is not None:
                rest = self._exchanged_tables.tolist()
                self._exchanged_slots = np.array(bags.slots_of(rest), np.int64)
                exchanged_bags = bags.select(rest)
        self._exchange: TableExchange | RowExchange | None = None
        self._fused: FusedTables | None = None
        if exchanged is not None:
            self._place(exchanged, exchanged_bags, cluster, local_batch_size, options)

    def _place(self, placement, bags, cluster, local_batch_size, options):
        shards = list(placement.shards_of(cluster.rank))
        if exchanges_complete_tables(self.placement, options.compress):
            self._exchange = TableExchange(
                placement, cluster, local_batch_size,
                model_parallel_input=options.model_parallel_input, bags=bags,
            )  # fmt: skip
            width, rows = placement.dimension, placement.rows_of(cluster.rank)
            first_rows = [shard.base_row for shard in shards]
        else:
            self._exchange = RowExchange(
                placement, cluster, local_batch_size, compress=options.compress, bags=bags
            )
            width, rows = self._exchange.width, self._exchange.rows
            first_rows = self._exchange.first_rows
        self._width = width
        if self._exchanged_tables is not None:
            # Initial values depend on the table's index in the model.
            shards = [_renumbered(shard, self._exchanged_tables) for shard in shards]
        if rows:
            self._fused = FusedTables(
                self.placement, shards, first_rows, rows, width,
                seed=options.seed, optimizer=options.optimizer, native=options.native_kernels,
                deterministic=options.deterministic,
            )  # fmt: skip

    @property
    def fused_tables(self) -> list[FusedTables]:
        """The `FusedTables` of this rank: exchanged tables, then replicated tables."""
        replicated = None if self._replicated is None else self._replicated.fused
        return [fused for fused in (self._fused, replicated) if fused is not None]

    def for_batch(self, local_batch_size: int) -> ShardedEmbedding:
        """Returns this embedding for batches of another size, over the same variables."""
        other = copy.copy(self)
        if self._exchange is not None:
            other._exchange = self._exchange.for_batch(local_batch_size)
        return other

    def for_training(self) -> ShardedEmbedding:
        """Returns this embedding for training steps; see `Embedding.for_training`."""
        if not self._side_stream:
            return self
        other = copy.copy(self)
        # One rank's vectors stay as they are looked up, unless tables are replicated or rows cut.
        stays = isinstance(self._exchange, TableExchange) and self._replicated is None
        other.side_stream = SideStream(
            lookup=stays and self._ranks == 1,
            update=bool(self.fused_tables),
            variables=tuple(v for fused in self.fused_tables for v in fused.states.values()),
        )
        return other

    def plan_ids(self, categorical: tf.Tensor) -> ExchangePlan:
        """Sends ids to the ranks that hold their rows; see `Embedding.plan_ids`."""
        if self._exchange is None:
            plan = ExchangePlan.of_ids(tf.zeros([0, 0], tf.int32), self._ranks)
        elif self._exchanged_tables is None:
            plan = self._exchange.plan_ids(categorical)
        else:
            plan = self._exchange.plan_ids(tf.gather(categorical, self._exchanged_slots, axis=1))
        if self._replicated is None:
            return plan
        local_ids = tf.gather(categorical, self._replicated_slots, axis=1)
        return plan._replace(
            local_ids=local_ids, touched_rows=self._replicated.touched_rows(local_ids)
        )

    def lookup_local(self, plan: ExchangePlan) -> tf.Tensor:
        """Returns the vectors of this rank's rows for all ranks: [M, K, width]."""
        if self._exchange is None:
            return tf.zeros([0, 0, self.placement.dimension], self._dtype)
        if self._fused is None:
            return tf.zeros([0, 0, self._width], self._dtype)
        where, factors = self._exchange.row_ids(plan), self._exchange.factors(plan)
        if factors is None:
            return self._fused.lookup(where, self._dtype, side_stream=self.side_stream.lookup)
        return tf.cast(factors * self._fused.lookup(where, tf.float32), self._dtype)

    def exchange_vectors(self, plan: ExchangePlan, rows: tf.Tensor) -> tf.Tensor:
        """Returns the vectors of this rank's samples, [b, T, D] in the exchange dtype."""
        parts = []
        if self._exchange is not None:
            parts.append(self._exchange.exchange_vectors(plan, rows))
        if self._replicated is None:
            return parts[0]
        parts.append(self._replicated.lookup(plan.local_ids, self._dtype))
        exchanged = [] if self._exchanged_tables is None else self._exchanged_tables
        order = np.argsort([*exchanged, *self._replicated.tables])
        return tf.gather(tf.concat(parts, 1), order, axis=1)

    def exchange_gradients(
        self, plan: ExchangePlan, rows: Any, gradients: tf.Tensor
    ) -> tuple[Any, Any]:
        """Sends gradients [b, T, D] to the ranks that hold their rows.

        Returns:
            (gradients of exchanged tables [M, K, width], sums for the touched rows of replicated
            tables [n, 1, D]); an empty tuple for either if there are no such tables.
        """
        gradients = tf.cast(gradients, self._dtype)
        replicated, exchanged = (), ()
        if self._replicated is not None:
            local = tf.gather(gradients, self._replicated.tables, axis=1)
            replicated = self._replicated.exchange_gradients(
                plan.local_ids, plan.touched_rows, local
            )
        if self._exchange is not None:
            if self._exchanged_tables is not None:
                gradients = tf.gather(gradients, self._exchanged_tables, axis=1)
            exchanged = self._exchange.exchange_gradients(plan, gradients)
        return exchanged, replicated

    def update_local(
        self, plan: ExchangePlan, gradients: Any, learning_rate: tf.Tensor, scale: Any = 1.0
    ) -> list[tf.Operation]:
        """Updates this rank's rows in place; see `Embedding.update_local`."""
        exchanged, replicated = gradients
        if self._scale != 1.0:  # saves a kernel on a GPU
            scale = self._scale * scale
        aside, updates = self.side_stream.update, []
        if self._replicated is not None:
            updates.append(
                self._replicated.update(
                    plan.touched_rows, replicated, learning_rate, scale, side_stream=aside
                )
            )
        exchange = self._exchange
        if self._fused is not None and exchange is not None:
            where, factors = exchange.row_ids(plan), exchange.factors(plan)
            if factors is not None:
                exchanged = factors * tf.cast(exchanged, tf.float32)
            updates.append(
                self._fused.update(where, exchanged, learning_rate, scale, side_stream=aside)
            )
        return [update for update in updates if aside and update is not None]

    def touched_rows(self, plan: ExchangePlan) -> np.ndarray:
        """Returns the rows of the exchanged tables that this batch's update changes."""
        if self._exchange is None:
            return np.zeros(0, np.int64)
        return self._exchange.used_rows(plan)

    def stored_tables(self) -> stored_rows.StoredTables:
        """Returns this rank's rows and optimizer states for checkpoints."""
        replicated = None if self._replicated is None else self._replicated.fused
        return stored_rows.StoredTables(
            tracked=self._fused,
            tracked_shards=stored_rows.of_fused(self._fused),
            replicated=[s for _, group in stored_rows.of_fused(replicated) for s in group],
        )


def exchanges_complete_tables(placement: Placement, compress: bool) -> bool:
    """Returns whether every table is on one rank and every id requests its row.

    The exchange's splits are then known before the run, and a rank can read the ids of its tables
    for the global batch (model-parallel input).
    """
    return len(placement.table_wise_tables) == len(placement.vocab_sizes) and not compress


def _without(placement, tables):
    """Returns (placement of the other tables, their indices), or (None, None) if there are none."""
    rest = [t for t in range(len(placement.vocab_sizes)) if t not in tables]
    if not rest:
        return None, None
    return Placement(
        tuple(placement.vocab_sizes[t] for t in rest),
        placement.dimension,
        placement.ranks,
        tuple(placement.assignments[t] for t in rest),
        placement.optimizer_bytes_per_row,
    ), np.array(rest, np.int64)


def _renumbered(shard: Shard, tables: np.ndarray) -> Shard:
    return dataclasses.replace(shard, table=int(tables[shard.table]))
