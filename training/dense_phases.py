"""The dense phases of a training step, the objects that a step uses, and the record of its losses.

A step has one object that computes the gradients of the dense part, and one that averages them,
updates the variables and records the loss. Those of this file use TensorFlow's ops, on any device;
`training.fused_phases` and `training.native_update` have the same methods for a GPU.

Shapes: b local batch, B global batch, T tables, D embedding dimension.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import tensorflow as tf

from model.dlrm import DenseDLRM
from model.embedding.interface import Embedding
from ops import loader
from ops.dense_update.native import MOST, record_loss
from ops.side_stream import join_side_stream
from training import phases
from training.optimizers import DenseOptimizer
from training.phases import Phase
from training.precision import LossScale
from training.runtime.process_group import ProcessGroup


@dataclasses.dataclass(frozen=True)
class GpuKernels:
    """Which dense phases of a step use the project's GPU kernels instead of TensorFlow's ops.

    Attributes:
        fused: the MLPs, the loss and all gradients, by explicit calls instead of a tape. The MLPs
            must be fused (`DLRMConfig.fused_mlp`).
        update: the optimizer, the check for finite numbers and the record of the loss, whatever
            computes the gradients.
    """

    fused: bool = False
    update: bool = False


def gpu_kernels(dense_model: DenseDLRM, device: str | None) -> GpuKernels:
    """Returns the kernels to use on a device: if CUDA kernels are built, all that fit the model.

    Args:
        dense_model: the dense part.
        device: name of the GPU, or None for a CPU.
    """
    if device is None or not loader.is_built() or not loader.has_cuda():
        return GpuKernels()
    return GpuKernels(
        fused=dense_model.bottom.fused, update=len(dense_model.trainable_variables) <= MOST
    )


@dataclasses.dataclass(frozen=True)
class StepParts:
    """The objects that a training step uses.

    Attributes:
        dense_model: the data-parallel part.
        embedding: the model-parallel part.
        optimizer: the optimizer of `dense_model.trainable_variables`.
        cluster: the ranks.
        scale: the loss scale.
        update_embedding: False freezes the tables at their initial values.
        embedding_rate: learning rate of the tables divided by the learning rate of the MLPs.
        kernels: the project's GPU kernels to use in the dense phases.
    """

    dense_model: DenseDLRM
    embedding: Embedding
    optimizer: DenseOptimizer
    cluster: ProcessGroup
    scale: LossScale
    update_embedding: bool = True
    embedding_rate: float = 1.0
    kernels: GpuKernels = GpuKernels()


class LossRecord:
    """Losses of past steps, kept on the device so that no step waits for its loss."""

    def __init__(self):
        self._sum = tf.Variable(tf.zeros([], tf.float64), trainable=False, name="loss_sum")
        self._last = tf.Variable(tf.zeros([]), trainable=False, name="last_loss")
        self._steps = tf.Variable(tf.zeros([], tf.int64), trainable=False, name="loss_steps")

    @property
    def variables(self) -> tuple[tf.Variable, ...]:
        """The variables that hold the record."""
        return self._sum, self._last, self._steps

    def add(self, loss: tf.Tensor, finite: tf.Tensor | None) -> None:
        """Adds the loss of a step; `finite` is None if steps are never skipped."""
        one = tf.constant(1, tf.int64)
        if finite is None:
            # After a loss that is not finite the weights are invalid: keep it until it is read.
            last = self._last.read_value()
            self._last.assign(tf.where(tf.math.is_finite(last), loss, last))
        else:
            self._last.assign(loss)
            loss, one = tf.where(finite, loss, 0.0), tf.cast(finite, tf.int64)
        self._sum.assign_add(tf.cast(loss, tf.float64))
        self._steps.assign_add(one)

    def add_native(
        self, loss: tf.Tensor, finite: tf.Tensor | None, weights_finite: tf.Tensor
    ) -> None:
        """Same as `add`, with one kernel on a GPU.

        Args:
            loss: of the step.
            finite: as for `add`.
            weights_finite: scalar bool, whether all weights are finite after the step. If not, and
                steps are never skipped, the loss is recorded as NaN.
        """
        record_loss(
            self._sum, self._last, self._steps, loss, finite, weights_finite,
            skips=finite is not None,
        )  # fmt: skip

    def last(self) -> float:
        """Waits for the last step; returns its mean loss over the global batch.

        If steps are never skipped, returns the first loss that was not finite, once there is one.
        """
        return float(self._last.numpy())

    def mean(self) -> float:
        """Waits for the last step; returns the mean loss of the steps since the last call."""
        steps = int(self._steps.numpy())
        mean = float(self._sum.numpy()) / steps if steps else float("nan")
        self._sum.assign(0.0)
        self._steps.assign(0)
        return mean


class Gradients(Protocol):
    """Computes the gradients of the dense part."""

    def phases(self, device: str | None) -> tuple[Phase, tuple[Phase, ...]]:
        """Returns (the phase from vectors to their gradients, the phases after it).

        The first has the inputs dense [b, dense features] float32, vectors [b, T, D] in the
        exchange dtype and label [b, 1] float32, and the outputs

        - loss, the mean over this rank's samples;
        - vector_gradients, of the scaled loss, like the vectors;
        - loss_scale.

        After all phases there is also gradients, a float32 gradient of the scaled loss for each
        variable of the model. The gradients of the vectors do not wait for the later phases.
        """
        ...


class TapeGradients:
    """Implements `Gradients` with a gradient tape, for any model.

    Args:
        parts: the objects that the step uses.
    """

    def __init__(self, parts: StepParts):
        self._model, self._scale = parts.dense_model, parts.scale
        self._side_stream = parts.embedding.side_stream

    def phases(self, device: str | None) -> tuple[Phase, tuple[Phase, ...]]:
        """See `Gradients.phases`: one phase, in which TensorFlow decides about the order."""
        return (
            Phase(
                phases.DENSE,
                self.forward_and_backward,
                ("dense", "vectors", "label"),
                ("loss", "gradients", "vector_gradients", "loss_scale"),
                # The bottom MLP runs before the vectors arrive, and the gradients of the vectors
                # are sent back before the dense gradients are ready.
                waits_for="vectors",
                early=("vector_gradients", "loss_scale"),
                device=device,
            ),
            (),
        )

    def forward_and_backward(
        self, dense: tf.Tensor, vectors: tf.Tensor, label: tf.Tensor
    ) -> tuple[tf.Tensor, list[Any], Any, tf.Tensor]:
        """Returns (loss, gradients, vector_gradients, loss_scale); see `Gradients.phases`."""
        variables = self._model.trainable_variables
        scale = self._scale.tensor()
        if self._side_stream.lookup:
            (vectors,) = join_side_stream(self._side_stream.variables, [vectors])
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            logits = self._model(dense, vectors)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=label, logits=logits)
            loss = tf.reduce_mean(losses)
            scaled = scale * loss
        *gradients, vector_gradients = tape.gradient(
            scaled, [*variables, vectors], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return loss, gradients, vector_gradients, scale


class DenseUpdate:
    """Averages the gradients over the ranks, updates the variables and records the loss.

    A subclass may replace `average` and `update`.

    Args:
        parts: the objects that the step uses.
        losses: records the loss of each step.
    """

    def __init__(self, parts: StepParts, losses: LossRecord):
        self._optimizer, self._cluster = parts.optimizer, parts.cluster
        self._scale, self._losses = parts.scale, losses

    def phases(self, device: str | None) -> tuple[Phase, Phase]:
        """Returns the phases of `average` and `update`; see there."""
        return (
            Phase(
                phases.AVERAGE,
                self.average,
                ("loss", "gradients", "vector_gradients", "loss_scale", "local_votes"),
                ("loss", "votes", "averaged", "finite"),
                device=device,
            ),
            Phase(
                phases.UPDATE_DENSE,
                self.update,
                ("averaged", "loss", "learning_rate", "finite"),
                device=device,
            ),
        )

    def average(
        self,
        loss: tf.Tensor,
        gradients: list[tf.Tensor],
        vector_gradients: tf.Tensor,
        scale: tf.Tensor,
        local_votes: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, Any, tf.Tensor | None]:
        """Returns (loss, votes, averaged gradients for `update`, finite), averaged over ranks.

        `finite` is a scalar bool, or None if steps are never skipped.
        """
        # Loss and votes share the all-reduce of the gradients, so they cost no extra exchange.
        local = [*gradients, loss, local_votes]
        if self._scale.skips:
            bad = tf.logical_not(tf.reduce_all(tf.math.is_finite(vector_gradients)))
            local.append(tf.cast(bad, tf.float32))
        averaged = self._cluster.all_reduce_mean(local, "dense_gradients")
        gradients = [gradient / scale for gradient in averaged[: len(gradients)]]
        loss, votes = averaged[len(gradients) : len(gradients) + 2]
        if not self._scale.skips:
            return loss, votes, gradients, None
        finite = [averaged[-1] == 0, tf.math.is_finite(loss)]
        finite += [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients]
        return loss, votes, gradients, tf.reduce_all(tf.stack(finite))

    def update(
        self,
        averaged: Any,
        loss: tf.Tensor,
        learning_rate: tf.Tensor,
        finite: tf.Tensor | None,
    ) -> tuple[()]:
        """Applies the averaged gradients and records the loss."""
        self._optimizer.apply(averaged, learning_rate, finite)
        if finite is not None:
            self._scale.after_step(finite)
        self._losses.add(loss, finite)
        return ()
