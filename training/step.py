"""One training step, and one forward pass, as lists of phases.

`train_phases` is the training step, its phases in their order, which nothing else repeats.
`TrainStep` runs the list in one `tf.function`, `training.breakdown.BreakdownStep` runs each phase
by itself.

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
    """Returns the phase that brings a batch's ids to their rows' ranks: it needs no weight."""
    return Phase(
        phases.EXCHANGE_IDS,
        lambda categorical: (embedding.plan_ids(categorical),),
        ("categorical",),
        ("plan",),
        device=HOST,
    )


def _vector_phases(embedding: Embedding) -> tuple[Phase, Phase]:
    """Returns the phases from a plan to the vectors of this rank's samples, [b, T, D]."""
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
    """Returns one training step: its phases in their order.

    Values that it takes: categorical ids, dense [b, dense features] float32, label [b, 1] float32,
    learning_rate (scalar float32), local_votes (float32 vector of any length).
    Values that it makes: among others loss, the mean over the global batch before the update, and
    votes, the mean of all ranks' local_votes.
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
            # The bottom MLP does not wait for the vectors, nor do their gradients, on the way
            # back, for the dense ones.
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
    """Trains on one batch: the phases of `train_phases` in one `tf.function`, traced once.

    The next batch's ids are exchanged while this batch computes: ids do not depend on the weights,
    so the result is the same bytes.

    Args:
        parts: what the step works on.
        overlap: False exchanges a batch's ids before its own step.
    """

    def __init__(self, parts: StepParts, *, overlap: bool = True):
        self._parts = parts
        self._losses = LossRecord()
        self._plan_phase, *self._phases = train_phases(parts, self._losses)
        self._overlap = overlap
        self._planned_batch: Batch | None = None
        self._planned: Any = None
        # Nothing here is Python that AutoGraph must rewrite; its rewriting would take most of the
        # time to the first step.
        self._plan = tf.function(self._plan_ids, autograph=False)
        self._function: Any = None  # traced with the first batch's shapes

    def plan(self, batch: Batch) -> ExchangePlan:
        """Returns a batch's plan, made now unless the step before has made it."""
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
            batch: {"dense": [b, dense_features], "categorical": [b, T] or [B, T_r],
                "label": [b, 1]}.
            learning_rate: of this step.
            following: the batch of the next call, if there is one.
            votes: this rank's control votes, of the same number in every call.

        Returns:
            (loss, votes): the mean loss over the global batch, before the update, and the mean of
            all ranks' votes; float32 tensors.
        """
        plan = self.plan(batch)
        local_votes = tf.constant(votes, tf.float32)
        if self._function is None:
            self._function = self._traced(batch, local_votes)
        # With overlap, a last batch plans itself once more: every step is the same graph.
        following = batch if following is None else following
        loss, global_votes, planned = self._function(
            batch["dense"], plan, batch["label"], tf.constant(learning_rate, tf.float32),
            local_votes, following["categorical"],
        )  # fmt: skip
        if self._overlap:
            self._planned_batch, self._planned = following, planned
        return loss, global_votes

    def last_loss(self) -> float:
        """Returns the last step's loss; see `LossRecord.last`."""
        return self._losses.last()

    def mean_loss(self) -> float:
        """Returns the mean loss of the steps since the last call; see `LossRecord.mean`."""
        return self._losses.mean()

    def wait(self) -> None:
        """Waits until the last step is done."""
        self._losses.last()

    def pause(self, seconds: float) -> None:
        """Called with the seconds spent outside steps since the last one. Does nothing here."""

    def finite(self) -> bool:
        """Returns whether the dense weights are finite, waiting for the last step.

        All ranks have the same weights, and so the same answer.
        """
        variables = self._parts.dense_model.trainable_variables
        return all(bool(tf.reduce_all(tf.math.is_finite(variable))) for variable in variables)

    def traces(self) -> int:
        """Returns how often the step has been traced: 1 after the first."""
        return self._function.experimental_get_tracing_count()

    def _plan_ids(self, categorical):
        values = phases.run_with_ranges((self._plan_phase,), {"categorical": categorical})
        return values["plan"]

    def _traced(self, batch, votes):
        """Returns the function of `_step`, for plans of any number of rows."""

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
        # Nothing below waits for this, nor it for anything below: TensorFlow runs both at once.
        planned = self._plan_ids(following) if self._overlap else ()
        values = {
            "dense": dense, "plan": plan, "label": label, "learning_rate": learning_rate,
            "local_votes": local_votes,
        }  # fmt: skip
        values = phases.run_with_ranges(tuple(self._phases), values)
        return ranges.settle(values["loss"]), values["votes"], planned


class Forward:
    """Computes logits of one batch without training.

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
        """Returns [b, 1] float32 logits of this rank's samples."""
        return self._function(batch["dense"], batch["categorical"])

    def _forward(self, dense, categorical):
        values = {"dense": dense, "categorical": categorical}
        return phases.run_with_ranges(self._phases, values)["logits"]
