"""The contract between a training step and whatever holds the embedding tables.

`model.embedding.sharded.ShardedEmbedding` (the project's kernels) and
`model.embedding.sok.SokEmbedding` (SparseOperationKit) keep it; the step, checkpoints and
evaluation know this contract alone.

Shapes: B global batch, b = B / N local batch, N ranks, T tables of which rank r holds T_r and R are
replicated, D embedding dimension, M requests of K rows each that arrive at a rank.
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
from storage.errors import ReportedError

GRADIENTS = ("mean", "sum")


class BackendError(ReportedError, ValueError):
    """A backend that does not run here, or that cannot do what is asked of it."""


class Ranks(Protocol):
    """What an embedding needs of the job's process group (`training.runtime.process_group`)."""

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
    """How an embedding starts and trains, whatever holds it.

    Attributes:
        seed: the run's seed. Row i of table t starts as U(-sqrt(1 / rows), sqrt(1 / rows)), the
            same values whatever the placement and the backend.
        optimizer: a row optimizer, or its name in `model.embedding.optimizers.OPTIMIZERS`.
        exchange_dtype: dtype in which vectors and their gradients travel.
        gradient: "mean": the loss is the mean over the global batch, so that N ranks optimise as
            one does. "sum": the gradient is N times as large, as in the SOK benchmark.
        compress: ask for each row once a batch.
        model_parallel_input: batches hold the ids of this rank's tables for the global batch,
            [B, T_r], instead of those of all tables for this rank's samples, [b, T].
        native_kernels: the project's ops; False takes TensorFlow's formulation of them.
    """

    seed: int
    optimizer: str | RowOptimizer = "sgd"
    exchange_dtype: tf.DType = tf.float32
    gradient: str = "mean"
    compress: bool = False
    model_parallel_input: bool = False
    native_kernels: bool = True

    def __post_init__(self):
        if self.gradient not in GRADIENTS:
            raise ValueError(f"gradient is {self.gradient!r}, expected one of {GRADIENTS}")
        object.__setattr__(self, "exchange_dtype", tf.as_dtype(self.exchange_dtype))

    def gradient_scale(self, ranks: int) -> float:
        """Returns the factor on gradients: the local loss is a mean over b = B / N samples."""
        return 1.0 / ranks if self.gradient == "mean" else 1.0


class ExchangePlan(NamedTuple):
    """The way of one batch's ids and vectors between ranks. It depends on no weight.

    Every field is a tensor, so that a plan can be made one step ahead and passed between
    functions; a field that a backend does not need is empty. (A NamedTuple, because every
    TensorFlow takes it apart at the border of a `tf.function`.)

    Attributes:
        ids: int32 [M, K] or int64 [b, T]: what this rank looks up.
        local_ids: int32 [b, R]: ids of this rank's samples in the R replicated tables.
        send_splits: int32 [N]: how many vectors this rank sends to each rank.
        recv_splits: int32 [N]: how many vectors this rank receives from each rank.
        permutation: int32: for each vector received, the (sample, table) pair that it is for; with
            `compress` the first of several.
        inverse_permutation: int32 [b * T * pieces of a row]: for each (sample, table) pair, the
            vector received for it.
    """

    ids: tf.Tensor
    local_ids: tf.Tensor
    send_splits: tf.Tensor
    recv_splits: tf.Tensor
    permutation: tf.Tensor
    inverse_permutation: tf.Tensor

    @classmethod
    def of_ids(cls, ids: tf.Tensor, ranks: int = 0) -> ExchangePlan:
        """Returns a plan of ids alone: nothing is exchanged.

        Args:
            ids: as for the class.
            ranks: N, the length of the splits.
        """
        none = tf.zeros([0], tf.int32)
        splits = tf.zeros([ranks], tf.int32)
        return cls(ids, tf.zeros([0, 0], tf.int32), splits, splits, none, none)


class Embedding(Protocol):
    """All tables of a model, of which this rank holds its share.

    A step calls `plan_ids`, `lookup_local`, `exchange_vectors`, `exchange_gradients` and
    `update_local`, in this order, on every rank. What `lookup_local` and `exchange_gradients`
    return is opaque to the step, which passes it on.

    Attributes:
        placement: which rank holds which rows.
        separable: each of these calls may be a `tf.function` of its own. False where a gradient
            tape joins the lookup to the gradients.
    """

    placement: Placement
    separable: bool

    def for_batch(self, local_batch_size: int) -> Embedding:
        """Returns this embedding for batches of another size, over the same tables."""
        ...

    def plan_ids(self, categorical: tf.Tensor) -> ExchangePlan:
        """Brings ids to where their rows are.

        Args:
            categorical: int32 [b, T] ids of this rank's samples, or [B, T_r] with model-parallel
                input.

        Raises:
            tf.errors.InvalidArgumentError: an id is outside its table (here or in the lookup).
        """
        ...

    def lookup_local(self, plan: ExchangePlan) -> Any:
        """Returns the vectors of this rank's rows for all ranks; SOK exchanges them here too."""
        ...

    def exchange_vectors(self, plan: ExchangePlan, rows: Any) -> tf.Tensor:
        """Returns the vectors of this rank's samples, [b, T, D] in the exchange dtype.

        Args:
            plan: of the batch.
            rows: what `lookup_local` returned.
        """
        ...

    def exchange_gradients(self, plan: ExchangePlan, rows: Any, gradients: tf.Tensor) -> Any:
        """Brings gradients of this rank's samples to the ranks of their rows.

        Args:
            plan: of the batch.
            rows: what `lookup_local` returned.
            gradients: [b, T, D], the gradient of this rank's mean loss times the loss scale.
        """
        ...

    def update_local(
        self, plan: ExchangePlan, gradients: Any, learning_rate: tf.Tensor, scale: Any = 1.0
    ) -> None:
        """Updates this rank's rows in place. It exchanges nothing, so that a step can skip it.

        Args:
            plan: of the batch.
            gradients: what `exchange_gradients` returned.
            learning_rate: scalar float32.
            scale: factor on the gradients, e.g. 1 / loss scale.
        """
        ...

    def touched_rows(self, plan: ExchangePlan) -> np.ndarray:
        """Returns the rows of `stored_tables().tracked` that this batch's update changes.

        Args:
            plan: of the batch, outside of a `tf.function`.

        Returns:
            int64 [n], repeated or not.
        """
        ...

    def stored_tables(self) -> StoredTables:
        """Returns what a checkpoint reads and writes of this rank's rows."""
        ...


def lookup(embedding: Embedding, plan: ExchangePlan) -> tf.Tensor:
    """Returns the vectors of a plan's samples, [b, T, D]: lookup and exchange in one call."""
    return embedding.exchange_vectors(plan, embedding.lookup_local(plan))


def update(
    embedding: Embedding,
    plan: ExchangePlan,
    gradients: tf.Tensor,
    learning_rate: Any,
    rows: Any | None = None,
    scale: Any = 1.0,
) -> None:
    """Applies gradients [b, T, D] to the rows of all ranks: exchange and update in one call.

    Args:
        embedding: the tables.
        plan: of the batch.
        gradients: as for `Embedding.exchange_gradients`.
        learning_rate: scalar float32.
        rows: what `lookup_local` returned, where the embedding is not separable.
        scale: as for `Embedding.update_local`.
    """
    returned = embedding.exchange_gradients(plan, rows, gradients)
    embedding.update_local(plan, returned, learning_rate, scale)
