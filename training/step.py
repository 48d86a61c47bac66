"""Defines the training step and the forward pass as lists of phases.

Only `train_phases` defines the phases of a training step and their order. `TrainStep` runs them in
one `tf.function`; `training.breakdown.BreakdownStep` runs them one at a time.

Shapes: b local batch, B global batch, T tables, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from model.dlrm import DenseDLRM
from model.embedding.interface import Embedding, ExchangePlan
from ops.nvtx import ranges
from training import phases
from training.dense_phases import DensePhases, LossRecord, StepParts
from training.phases import HOST, Phase

Batch = dict[str, tf.Tensor]


def plan_phase(embedding: Embedding) -> Phase:
    """Returns the phase that sends a batch's ids to the ranks of their rows; it uses no weights."""
    return Phase(
        phases.EXCHANGE_IDS,
        lambda categorical: (embedding.plan_ids(categorical),),
        ("categorical",),
        ("plan",),
        device=HOST,
    )


def _vector_phases(embedding: Embedding) -> tuple[Phase, Phase]:
    """Returns the phases from a plan to the vectors of this rank's samples [b, T, D]."""
    return (
        Phase(
            phases.LOOKUP,
            lambda plan: (embedding.lookup_local(plan),),
            ("plan",),
            ("rows",),
        ),
        Phase(
            phases.EXCHANGE_VECTORS,
            lambda plan, rows: (embedding.exchange_vectors(plan, rows),),
            ("plan", "rows"),
            ("vectors",),
            waits_for="rows",
        ),
    )


def train_phases(parts: StepParts, losses: LossRecord) -> tuple[Phase, ...]:
    """Returns the phases of a training step in order.

    Inputs: categorical (ids), dense [b, dense features] float32, label [b, 1] float32,
    learning_rate (scalar float32), local_votes (float32 vector of any length).
    Outputs include loss, the mean over the global batch before the update, and votes, the mean of
    local_votes over all ranks.
    """
    embedding, work = parts.embedding, DensePhases(parts, losses)
    forward_and_dense = (
        plan_phase(embedding),
        *_vector_phases(embedding),
        Phase(
            phases.DENSE,
            work.forward_and_backward,
            ("dense", "vectors", "label"),
            ("loss", "gradients", "vector_gradients", "loss_scale"),
            # The bottom MLP runs before the vectors arrive, and the gradients of the vectors are
            # sent back before the dense gradients are ready.
            waits_for="vectors",
            early=("vector_gradients", "loss_scale"),
        ),
        Phase(
            phases.AVERAGE,
            work.average,
            ("loss", "gradients", "vector_gradients", "loss_scale", "local_votes"),
            ("loss", "votes", "gradients", "finite"),
        ),
        Phase(
            phases.UPDATE_DENSE,
            work.update,
            ("gradients", "loss", "learning_rate", "finite"),
        ),
    )
    if not parts.update_embedding:
        return forward_and_dense

    def update_rows(plan, gradients, learning_rate, loss_scale, finite):
        def apply():
            rate = parts.embedding_rate * learning_rate
            embedding.update_local(plan, gradients, rate, 1.0 / loss_scale)
            return True

        if finite is None:
            apply()
        else:
            tf.cond(finite, apply, lambda: False)
        return ()

    return (
        *forward_and_dense,
        Phase(
            phases.EXCHANGE_GRADIENTS,
            lambda plan, rows, gradients: (embedding.exchange_gradients(plan, rows, gradients),),
            ("plan", "rows", "vector_gradients"),
            ("row_gradients",),
            waits_for="vector_gradients",
        ),
        Phase(
            phases.UPDATE_ROWS,
            update_rows,
            ("plan", "row_gradients", "learning_rate", "loss_scale", "finite"),
            waits_for="row_gradients",
        ),
    )


class TrainStep:
    """Runs the phases of `train_phases` in one `tf.function`, traced once.

    The ids of the next batch are exchanged during this step. They do not depend on the weights, so
    the results are the same to the bit.

    Args:
        parts: the objects that the step uses.
        overlap: False exchanges the ids of each batch before its step.
    """

    def __init__(self, parts: StepParts, *, overlap: bool = True):
        self._parts = parts
        self._losses = LossRecord()
        self._plan_phase, *self._phases = train_phases(parts, self._losses)
        self._overlap = overlap
        self._planned_batch: Batch | None = None
        self._planned: Any = None
        # Without AutoGraph: there is nothing for it to rewrite, and it would take most of the time
        # to the first step.
        self._plan = tf.function(self._plan_ids, autograph=False)
        self._function: Any = None  # traced with the first batch's shapes

    def plan(self, batch: Batch) -> ExchangePlan:
        """Returns the exchange plan of a batch; computes it unless the previous step did."""
        if self._planned_batch is not batch:
            self._planned, self._planned_batch = self._plan(batch["categorical"]), batch
        return self._planned

    def __call__(
        self,
        batch: Batch,
        learning_rate: float,
        following: Batch | None = None,
        votes: Sequence[float] = (0.0,),
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs one step.

        Args:
            batch: {"dense": [b, dense features] float32, "categorical": [b, T] or [B, T_r],
                "label": [b, 1] float32}.
            learning_rate: learning rate of this step.
            following: the batch of the next call, or None.
            votes: control votes of this rank, the same number in every call.

        Returns:
            (loss, votes): float32 tensors, the mean loss over the global batch before the update,
            and the mean of the votes over all ranks.
        """
        plan = self.plan(batch)
        local_votes = tf.constant(votes, tf.float32)
        if self._function is None:
            self._function = self._traced(batch, local_votes)
        # The last step plans its own batch again, so that every step runs the same graph.
        following = batch if following is None else following
        loss, global_votes, planned = self._function(
            batch["dense"], plan, batch["label"], tf.constant(learning_rate, tf.float32),
            local_votes, following["categorical"],
        )  # fmt: skip
        if self._overlap:
            self._planned_batch, self._planned = following, planned
        return loss, global_votes

    def last_loss(self) -> float:
        """Returns the loss of the last step; see `LossRecord.last`."""
        return self._losses.last()

    def mean_loss(self) -> float:
        """Returns the mean loss of the steps since the last call; see `LossRecord.mean`."""
        return self._losses.mean()

    def wait(self) -> None:
        """Waits for the end of the last step."""
        self._losses.last()

    def pause(self, seconds: float) -> None:
        """Called with the seconds spent outside steps since the last one. Does nothing here."""

    def finite(self) -> bool:
        """Waits for the last step; returns whether all dense weights are finite.

        The result is equal on all ranks, because their dense weights are.
        """
        variables = self._parts.dense_model.trainable_variables
        return all(bool(tf.reduce_all(tf.math.is_finite(variable))) for variable in variables)

    def traces(self) -> int:
        """Returns how many times the step has been traced: 1 after the first step."""
        return self._function.experimental_get_tracing_count()

    def _plan_ids(self, categorical):
        values = phases.run_with_ranges((self._plan_phase,), {"categorical": categorical})
        return values["plan"]

    def _traced(self, batch, votes):
        """Returns `_step` as a function that accepts plans with any number of rows."""

        def spec(tensor):
            return tf.TensorSpec(tensor.shape, tensor.dtype)

        categorical = spec(batch["categorical"])
        plan = self._plan.get_concrete_function(categorical).structured_outputs
        signature = (
            spec(batch["dense"]),
            tf.nest.map_structure(spec, plan),
            spec(batch["label"]),
            tf.TensorSpec([], tf.float32),
            spec(votes),
            categorical,
        )
        return tf.function(self._step, input_signature=signature, autograph=False)

    def _step(self, dense, plan, label, learning_rate, local_votes, following):
        # This and the phases below do not depend on each other: TensorFlow runs them in parallel.
        planned = self._plan_ids(following) if self._overlap else ()
        values = {
            "dense": dense, "plan": plan, "label": label, "learning_rate": learning_rate,
            "local_votes": local_votes,
        }  # fmt: skip
        values = phases.run_with_ranges(tuple(self._phases), values)
        return ranges.settle(values["loss"]), values["votes"], planned


class Forward:
    """Computes the logits of a batch without training.

    Args:
        dense_model: the data-parallel part.
        embedding: the model-parallel part.
    """

    def __init__(self, dense_model: DenseDLRM, embedding: Embedding):
        self._phases = (
            plan_phase(embedding),
            *_vector_phases(embedding),
            Phase(
                phases.DENSE_FORWARD,
                lambda dense, vectors: (dense_model(dense, vectors, for_inference=True),),
                ("dense", "vectors"),
                ("logits",),
                waits_for="vectors",
            ),
        )
        self._function = tf.function(self._forward, autograph=False)

    def __call__(self, batch: Batch) -> tf.Tensor:
        """Returns the logits [b, 1] float32 of this rank's samples."""
        return self._function(batch["dense"], batch["categorical"])

    def _forward(self, dense, categorical):
        values = {"dense": dense, "categorical": categorical}
        return phases.run_with_ranges(self._phases, values)["logits"]
