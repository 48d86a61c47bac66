"""The interface between a training step and the embedding tables.

`model.embedding.sharded.ShardedEmbedding` (the project's kernels) and
`model.embedding.sok.SokEmbedding` (SparseOperationKit) implement it; the step, checkpoints and
evaluation depend on this interface only.

Shapes: B global batch, b = B / N local batch, N ranks, T tables of which rank r holds T_r and R are
replicated, D embedding dimension, M requests of K rows each that arrive at a rank, W slots of a
sample's ids (`ops.bags`), W_r of rank r's tables and W_R of the replicated ones. If every table has
one id per sample, W = T, W_r = T_r and W_R = R.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from model.embedding.optimizers import RowOptimizer
from model.embedding.placement import Placement
from model.embedding.stored_rows import StoredTables
from ops.bags import Bags
from storage.errors import ReportedError


class BackendError(ReportedError, ValueError):
    """The embedding backend does not run here, or does not support an option."""


class Ranks(Protocol):
    """The part of the process group (`training.runtime.process_group`) that an embedding uses."""

    rank: int
    size: int

    def alltoall(
        self, tensor: tf.Tensor, splits: tf.Tensor, name: str
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Sends rows to every rank; returns the rows received and their counts."""
        ...

    def all_reduce_mean(self, tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
        """Returns the tensors averaged over the ranks."""
        ...


@dataclasses.dataclass(frozen=True)
class EmbeddingOptions:
    """How an embedding is initialised and trained, with any backend.

    Attributes:
        seed: the run's seed. Row i of table t starts as U(-sqrt(1 / rows), sqrt(1 / rows)), the
            same values for every placement and backend.
        optimizer: a row optimizer, or its name in `model.embedding.optimizers.OPTIMIZERS`.
        exchange_dtype: dtype of exchanged vectors and gradients.
        gradient: "mean": the loss is the mean over the global batch, so training does not depend on
            N. "sum": the gradient is N times as large, as in the SOK benchmark.
        compress: request each row once per batch.
        model_parallel_input: batches hold the ids of this rank's tables for the global batch,
            [B, W_r], instead of those of all tables for this rank's samples, [b, W].
        native_kernels: use the project's ops; False: equivalent TensorFlow ops.
        deterministic: False lets a GPU add the gradients of SGD in any order, which is faster.
        side_stream: use the side stream in training, on a GPU with `native_kernels`.
        bags: the ids of a sample in each table, and how their vectors are pooled; None: one id.
    """

    seed: int
    optimizer: str | RowOptimizer = "sgd"
    exchange_dtype: tf.DType = tf.float32
    gradient: str = "mean"
    compress: bool = False
    model_parallel_input: bool = False
    native_kernels: bool = True
    deterministic: bool = False
    side_stream: bool = False
    bags: Bags | None = None

    def __post_init__(self):
        object.__setattr__(self, "exchange_dtype", tf.as_dtype(self.exchange_dtype))

    def gradient_scale(self, ranks: int) -> float:
        """Returns the factor on gradients of the local loss, a mean over b = B / N samples."""
        return 1.0 / ranks if self.gradient == "mean" else 1.0


@dataclasses.dataclass(frozen=True)
class SideStream:
    """What an embedding runs on a GPU's side stream, until `ops.side_stream.join_side_stream`.

    Attributes:
        lookup: `lookup_local` runs there; `exchange_vectors` returns its result unchanged.
        update: `update_local` runs there.
        variables: those that they use, at least one if either is True.
    """

    lookup: bool = False
    update: bool = False
    variables: tuple[tf.Variable, ...] = ()


class ExchangePlan(NamedTuple):
    """How one batch's ids and vectors travel between ranks. It does not depend on weights.

    Every field is a tensor, so that a plan can be made one step ahead and passed between
    functions; fields that a backend does not need are empty. Plans are made in host memory. A step
    on a GPU copies all fields but the splits to it. It is a NamedTuple because every TensorFlow
    version accepts one as an argument of a `tf.function`.

    With bags of ids, a vector that travels may be the sum of several rows of its owner, and a
    sample's vector the sum of several such vectors. A *bag* is here a piece of a (sample, table)
    pair's vector, and each pair of a bag and a vector that is added to it is a contribution; there
    are C. With one id per table, each bag has one.

    Attributes:
        ids: int32 [M, K] or int64 [b, T]: the ids or rows that this rank looks up. With bags, int32
            [B, W_r], or with `offsets` the rows of all requests, one request after another.
        local_ids: int32 [b, W_R]: ids of this rank's samples in the R replicated tables.
        touched_rows: int32 [n, 1]: rows of the replicated tables that occur in any rank's samples.
        send_splits: int32 [N]: the number of vectors that this rank sends to each rank.
        recv_splits: int32 [N]: the number of vectors that this rank receives from each rank.
        permutation: int32: for each received vector, the index of its (sample, table) pair; with
            `compress`, of the first such pair. Empty if it is the same for every batch.
        inverse_permutation: int32 [b * T * pieces of a row]: for each (sample, table) pair, the
            index of its received vector. Empty if it is the same for every batch.
        offsets: int32 [M + 1]: request m is for the sum of rows ids[offsets[m] : offsets[m + 1]].
            Empty if every request is for one row, or if all of a bag's rows are on one rank.
        bag_segments: int32 [C], ascending: the bag of each contribution. `inverse_permutation` has
            its vector. Empty like `offsets`.
        vector_segments: int32 [C], ascending: the received vector of each contribution.
            `permutation` has its bag. Empty like `offsets`, and without `compress`: each vector
            then has one.
        counts: int32 [b, T]: divisors of the sums of bags and of their gradients at the requesting
            rank: the number of ids where distinct rows are averaged, else 1. Empty like `offsets`,
            without `compress`, and if there is no mean. (An integer, because TensorFlow would pass
            floating point values from step to step in the memory of a GPU.)
        divisors: int32 [M]: divisors of the sums of requests and of their gradients at this rank:
            the number of ids of the complete bag where partial sums are averaged, else 1. Empty
            like `offsets`, and if there is no mean.
    """

    ids: tf.Tensor
    local_ids: tf.Tensor
    touched_rows: tf.Tensor
    send_splits: tf.Tensor
    recv_splits: tf.Tensor
    permutation: tf.Tensor
    inverse_permutation: tf.Tensor
    offsets: tf.Tensor
    bag_segments: tf.Tensor
    vector_segments: tf.Tensor
    counts: tf.Tensor
    divisors: tf.Tensor

    @classmethod
    def of_ids(cls, ids: tf.Tensor, ranks: int = 0) -> ExchangePlan:
        """Returns a plan that looks up ids and exchanges nothing.

        Args:
            ids: as for the class.
            ranks: N, the length of the splits.
        """
        none = tf.zeros([0], tf.int32)
        splits = tf.zeros([ranks], tf.int32)
        nothing = tf.zeros([0, 0], tf.int32), tf.zeros([0, 1], tf.int32)
        return cls(ids, *nothing, splits, splits, none, none, none, none, none, nothing[0], none)


class Embedding(Protocol):
    """All embedding tables of a model; this rank holds a part of them.

    A step calls `plan_ids`, `lookup_local`, `exchange_vectors`, `exchange_gradients` and
    `update_local`, in this order, on every rank. What `lookup_local` and `exchange_gradients`
    return is opaque to the step, which passes it on.

    Attributes:
        placement: which rank holds which rows.
        optimizer: updates the rows.
        separable: each of these calls may be a separate `tf.function`. False if a gradient tape
            connects the lookup to the gradients.
        side_stream: what runs on a GPU's side stream; by default nothing.
    """

    placement: Placement
    optimizer: RowOptimizer
    separable: bool
    side_stream: SideStream

    def for_batch(self, local_batch_size: int) -> Embedding:
        """Returns this embedding for batches of another size, over the same tables."""
        ...

    def for_training(self) -> Embedding:
        """Returns this embedding, over the same tables, for steps that join the side stream.

        With `EmbeddingOptions.side_stream` the update runs there, and the lookup if its vectors are
        not exchanged.
        """
        ...

    def plan_ids(self, categorical: tf.Tensor) -> ExchangePlan:
        """Sends ids to the ranks that hold their rows.

        Args:
            categorical: int32 [b, W] ids of this rank's samples, or [B, W_r] with model-parallel
                input (the slots of this rank's tables in their order).

        Raises:
            tf.errors.InvalidArgumentError: an id is outside its table (raised here or in the
                lookup).
        """
        ...

    def lookup_local(self, plan: ExchangePlan) -> Any:
        """Returns the vectors of this rank's rows for all ranks; SOK also exchanges them here."""
        ...

    def exchange_vectors(self, plan: ExchangePlan, rows: Any) -> tf.Tensor:
        """Returns the vectors of this rank's samples, [b, T, D] in the exchange dtype.

        Args:
            plan: the batch's plan.
            rows: the result of `lookup_local`.
        """
        ...

    def exchange_gradients(self, plan: ExchangePlan, rows: Any, gradients: tf.Tensor) -> Any:
        """Sends gradients of this rank's samples to the ranks that hold their rows.

        Args:
            plan: the batch's plan.
            rows: the result of `lookup_local`.
            gradients: [b, T, D], the gradient of this rank's mean loss times the loss scale.
        """
        ...

    def update_local(
        self, plan: ExchangePlan, gradients: Any, learning_rate: tf.Tensor, scale: Any = 1.0
    ) -> list[tf.Operation]:
        """Updates this rank's rows in place. Not collective, so a step may skip it.

        Args:
            plan: the batch's plan.
            gradients: the result of `exchange_gradients`.
            learning_rate: scalar float32.
            scale: factor on the gradients, e.g. 1 / loss scale.

        Returns:
            In a graph, the updates that run on the side stream.
        """
        ...

    def touched_rows(self, plan: ExchangePlan) -> np.ndarray:
        """Returns the rows of `stored_tables().tracked` that this batch's update changes.

        Args:
            plan: the batch's plan; not inside a `tf.function`.

        Returns:
            int64 [n], possibly with repetitions.
        """
        ...

    def stored_tables(self) -> StoredTables:
        """Returns this rank's rows and optimizer states for checkpoints."""
        ...


def lookup(embedding: Embedding, plan: ExchangePlan) -> tf.Tensor:
    """Looks up and exchanges the vectors of a plan's samples; returns them, [b, T, D]."""
    return embedding.exchange_vectors(plan, embedding.lookup_local(plan))


def update(
    embedding: Embedding,
    plan: ExchangePlan,
    gradients: tf.Tensor,
    learning_rate: Any,
    rows: Any | None = None,
    scale: Any = 1.0,
) -> None:
    """Exchanges gradients [b, T, D] and updates the rows of all ranks.

    Args:
        embedding: the tables.
        plan: the batch's plan.
        gradients: as for `Embedding.exchange_gradients`.
        learning_rate: scalar float32.
        rows: the result of `lookup_local`; required if the embedding is not separable.
        scale: as for `Embedding.update_local`.
    """
    returned = embedding.exchange_gradients(plan, rows, gradients)
    embedding.update_local(plan, returned, learning_rate, scale)
