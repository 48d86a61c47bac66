"""The dense phases of a training step, the objects that a step uses, and the record of its losses.

Shapes: b local batch, B global batch, T tables, D embedding dimension.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from model.dlrm import DenseDLRM
from model.embedding.interface import Embedding
from training.optimizers import DenseOptimizer
from training.precision import LossScale
from training.runtime.process_group import ProcessGroup


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
    """

    dense_model: DenseDLRM
    embedding: Embedding
    optimizer: DenseOptimizer
    cluster: ProcessGroup
    scale: LossScale
    update_embedding: bool = True
    embedding_rate: float = 1.0


class LossRecord:
    """Losses of past steps, kept on the device so that no step waits for its loss."""

    def __init__(self):
        self._sum = tf.Variable(tf.zeros([], tf.float64), trainable=False, name="loss_sum")
        self._last = tf.Variable(tf.zeros([]), trainable=False, name="last_loss")
        self._steps = tf.Variable(tf.zeros([], tf.int64), trainable=False, name="loss_steps")

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


class DensePhases:
    """The functions of the dense phases.

    Args:
        parts: the objects that the step uses.
        losses: records the loss of each step.
    """

    def __init__(self, parts: StepParts, losses: LossRecord):
        self._model, self._optimizer = parts.dense_model, parts.optimizer
        self._cluster, self._scale = parts.cluster, parts.scale
        self._losses = losses

    def forward_and_backward(
        self, dense: tf.Tensor, vectors: tf.Tensor, label: tf.Tensor
    ) -> tuple[tf.Tensor, list[Any], Any, tf.Tensor]:
        """Returns (loss of this rank, dense gradients, vector gradients, loss scale).

        The gradients are of the scaled loss.

        Args:
            dense: [b, dense features] float32.
            vectors: [b, T, D] in the exchange dtype.
            label: [b, 1] float32.
        """
        variables = self._model.trainable_variables
        scale = self._scale.tensor()
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

    def average(
        self,
        loss: tf.Tensor,
        gradients: list[tf.Tensor],
        vector_gradients: tf.Tensor,
        scale: tf.Tensor,
        local_votes: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor], tf.Tensor | None]:
        """Returns (loss, votes, unscaled dense gradients, finite), averaged over ranks.

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
        gradients: list[tf.Tensor],
        loss: tf.Tensor,
        learning_rate: tf.Tensor,
        finite: tf.Tensor | None,
    ) -> tuple[()]:
        """Applies the dense gradients and records the loss."""
        self._optimizer.apply(gradients, learning_rate, finite)
        if finite is not None:
            self._scale.after_step(finite)
        self._losses.add(loss, finite)
        return ()
