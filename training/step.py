"""Defines the training step and the forward pass as lists of phases.

Only `train_phases` defines the phases of a training step and their order. `TrainStep` runs them in
one `tf.function`; `training.breakdown.BreakdownStep` runs them one at a time.

Shapes: b local batch, B global batch, T tables, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from model.dlrm import DenseDLRM
from model.embedding.interface import Embedding, ExchangePlan
from ops.nvtx import ranges
from training import phases
from training.dense_phases import DenseUpdate, LossRecord, StepParts, TapeGradients
from training.fused_phases import FusedGradients
from training.native_update import NativeUpdate
from training.phases import HOST, Phase
from training.row_update import RowUpdate
from training.upload_phases import upload_phases

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


def _vector_phases(embedding: Embedding, device: str | None = None) -> tuple[Phase, Phase]:
    """Returns the phases from a plan to the vectors of this rank's samples [b, T, D]."""
    return (
        Phase(
            phases.LOOKUP,
            lambda plan: (embedding.lookup_local(plan),),
            ("plan",),
            ("rows",),
            device=device,
        ),
        Phase(
            phases.EXCHANGE_VECTORS,
            lambda plan, rows: (embedding.exchange_vectors(plan, rows),),
            ("plan", "rows"),
            ("vectors",),
            waits_for="rows",
            device=device,
        ),
    )


class TrainPhases(NamedTuple):
    """The phases of a training step in order.

    Attributes:
        preparation: phases that use no weights, so that the previous step can run them. Inputs:
            categorical (ids), dense [b, dense features] float32, label [b, 1] float32. The step
            uses their outputs, and those of these inputs that are in `passed`.
        step: the others. More inputs: learning_rate (scalar float32), local_votes (float32 vector
            of any length). Outputs include loss, the mean over the global batch before the update,
            and votes, the mean of local_votes over all ranks.
        passed: names of inputs that the step itself uses, too.
    """

    preparation: tuple[Phase, ...]
    step: tuple[Phase, ...]
    passed: tuple[str, ...]


def train_phases(parts: StepParts, losses: LossRecord, device: str | None = None) -> TrainPhases:
    """Returns the phases of a training step.

    Args:
        parts: the objects that the step uses.
        losses: records the loss of each step.
        device: name of the GPU. Batches are then uploaded to it, and nothing else passes between
            host and GPU during a step. None: everything is in host memory.
    """
    computing = _computing_phases(parts, losses, device)
    planning = plan_phase(parts.embedding)
    if device is None:
        return TrainPhases((planning,), computing, ("dense", "label"))
    upload, receive = upload_phases(device, parts.cluster.size)
    return TrainPhases((planning, upload), (receive, *computing), ())


def _computing_phases(parts, losses, device):
    kernels = parts.kernels
    gradients = FusedGradients(parts) if kernels.fused else TapeGradients(parts)
    finish = NativeUpdate(parts, losses) if kernels.update else DenseUpdate(parts, losses)
    upper, lower = gradients.phases(device)
    forward = *_vector_phases(parts.embedding, device), upper
    average, update = finish.phases(device)
    if not parts.update_embedding:
        return (*forward, *lower, average, update)
    return (*forward, *RowUpdate(parts, losses, device).arrange(lower, average, update))


class TrainStep:
    """Runs the phases of `train_phases` in one `tf.function`, traced once.

    The next batch is prepared during this step: its ids are exchanged, and it is uploaded to the
    GPU. That does not depend on the weights, so the results are the same to the bit.

    Args:
        parts: the objects that the step uses.
        overlap: False prepares each batch before its step.
        device: name of the GPU; None: everything runs on the CPU.
    """

    def __init__(self, parts: StepParts, *, overlap: bool = True, device: str | None = None):
        self._parts = parts
        self._losses = LossRecord()
        self._phases = train_phases(parts, self._losses, device)
        self._overlap, self._uploads = overlap, device is not None
        # One rank with a GPU keeps its votes on the host; several average theirs on the GPUs.
        self._returns_votes = device is None or parts.cluster.size > 1
        self._votes_on_device = device is not None and self._returns_votes
        self._prepared_batch: Batch | None = None
        self._prepared: Any = None
        # Without AutoGraph: there is nothing for it to rewrite, and it would take most of the time
        # to the first step.
        self._prepare = tf.function(self._run_preparation, autograph=False)
        self._function: Any = None  # traced with the first batch's shapes

    @property
    def votes_on_device(self) -> bool:
        """Whether a read of a step's votes waits for the GPU."""
        return self._votes_on_device

    def plan(self, batch: Batch) -> ExchangePlan:
        """Returns the exchange plan of a batch, in host memory."""
        return self._prepare_once(batch)["plan"]

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
        # Before the first preparation, which would otherwise be traced twice.
        if self._function is None:
            self.trace(batch, len(votes))
            assert self._function is not None
        inputs = {
            **self._prepare_once(batch),
            **self._scalars(learning_rate, votes),
            **{name: batch[name] for name in self._phases.passed},
        }
        # The last step prepares its own batch again, so that every step runs the same graph.
        following = batch if following is None else following
        outputs = self._function(inputs, following)
        if self._overlap:
            self._prepared_batch, self._prepared = following, outputs["prepared"]
        return outputs["loss"], outputs.get("votes", inputs["local_votes"])

    def trace(self, batch: Batch, votes: int = 1) -> tf.Graph:
        """Traces the function of all steps, for plans with any number of rows.

        Args:
            batch: tensors, or `tf.TensorSpec`s, with the shapes of every batch.
            votes: number of control votes.

        Returns:
            The graph of a step.
        """

        def spec(tensor):
            return tf.TensorSpec(tensor.shape, tensor.dtype)

        batch = tf.nest.map_structure(spec, batch)
        prepared = self._prepare.get_concrete_function(batch).structured_outputs
        inputs = {
            **tf.nest.map_structure(spec, prepared),
            **{name: batch[name] for name in self._phases.passed},
            "learning_rate": tf.TensorSpec([], tf.float32),
            "local_votes": tf.TensorSpec([votes], tf.float32),
        }
        signature = (inputs, batch)
        self._function = tf.function(self._step, input_signature=signature, autograph=False)
        return self._function.get_concrete_function().graph

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

    @staticmethod
    def _scalars(learning_rate, votes):
        with tf.device(HOST):  # by default TensorFlow would copy each to the GPU
            return {
                "learning_rate": tf.constant(learning_rate, tf.float32),
                "local_votes": tf.constant(votes, tf.float32),
            }

    def _prepare_once(self, batch):
        """Returns {name: value} of a prepared batch; prepares it unless the previous step did."""
        if self._prepared_batch is not batch:
            self._prepared, self._prepared_batch = self._prepare(batch), batch
        return self._prepared

    def _run_preparation(self, batch):
        values = phases.run_with_ranges(self._phases.preparation, batch)
        return {name: values[name] for phase in self._phases.preparation for name in phase.outputs}

    def _step(self, inputs, following):
        # The preparation and the phases do not depend on each other: TensorFlow runs them in
        # parallel. But it keeps the order of stateful ops without variables, so that the upload,
        # which copies a batch on the host first, must come after `receive`.
        prepared = {}
        if self._overlap and not self._uploads:
            prepared = self._run_preparation(following)
        values = phases.run_with_ranges(self._phases.step, inputs)
        if self._overlap and self._uploads:
            prepared = self._run_preparation(following)
        outputs = {"prepared": prepared, "loss": ranges.settle(values["loss"])}
        if self._returns_votes:
            outputs["votes"] = values["votes"]
        return outputs


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
