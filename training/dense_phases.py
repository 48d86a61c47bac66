"""What a training step works on, its losses, and the phases of its dense part.

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
    """What a training step works on.

    Attributes:
        dense_model: the data-parallel part.
        embedding: the model-parallel part.
        optimizer: of the dense variables, made with `dense_model.trainable_variables`.
        cluster: the ranks.
        scale: the loss scale.
        update_embedding: False freezes the tables at their initial values.
        embedding_rate: the tables' learning rate in units of the dense part's.
    """

    dense_model: DenseDLRM
    embedding: Embedding
    optimizer: DenseOptimizer
    cluster: ProcessGroup
    scale: LossScale
    update_embedding: bool = True
    embedding_rate: float = 1.0


class LossRecord:
    """The losses of the steps, kept where they are computed, so that no step waits for its own."""

    def __init__(self):
        self._sum = tf.Variable(tf.zeros([], tf.float64), trainable=False, name="loss_sum")
        self._last = tf.Variable(tf.zeros([]), trainable=False, name="last_loss")
        self._steps = tf.Variable(tf.zeros([], tf.int64), trainable=False, name="loss_steps")

    def add(self, loss: tf.Tensor, finite: tf.Tensor | None) -> None:
        """Adds a step's loss; `finite` is None where no step is skipped."""
        one = tf.constant(1, tf.int64)
        if finite is None:
            # A loss that is not finite has spoilt the weights: it stays until somebody looks.
            last = self._last.read_value()
            self._last.assign(tf.where(tf.math.is_finite(last), loss, last))
        else:
            self._last.assign(loss)
            loss, one = tf.where(finite, loss, 0.0), tf.cast(finite, tf.int64)
        self._sum.assign_add(tf.cast(loss, tf.float64))
        self._steps.assign_add(one)

    def last(self) -> float:
        """Returns the last step's mean loss over the global batch, waiting for it.

        Unless steps that are not finite are skipped, the first loss that is not finite stays.
        """
        return float(self._last.numpy())

    def mean(self) -> float:
        """Returns the mean loss of the steps since the last call, waiting for them."""
        steps = int(self._steps.numpy())
        mean = float(self._sum.numpy()) / steps if steps else float("nan")
        self._sum.assign(0.0)
        self._steps.assign(0)
        return mean


class DensePhases:
    """The functions of the dense part's phases.

    Args:
        parts: what the step works on.
        losses: gets each step's loss.
    """

    def __init__(self, parts: StepParts, losses: LossRecord):
        self._model, self._optimizer = parts.dense_model, parts.optimizer
        self._cluster, self._scale = parts.cluster, parts.scale
        self._losses = losses

    def forward_and_backward(
        self, dense: tf.Tensor, vectors: tf.Tensor, label: tf.Tensor
    ) -> tuple[tf.Tensor, list[Any], Any, tf.Tensor]:
        """Returns (this rank's loss, gradients of variables and of vectors, the loss scale).

        The gradients are those of the scaled loss.
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
        """Returns (loss, votes, unscaled dense gradients) of all ranks, and whether finite.

        The last is None where no step is skipped.
        """
        # Loss and votes travel with the gradients: averaged over ranks at no cost of their own.
        travelling = [*gradients, loss, local_votes]
        if self._scale.skips:
            bad = tf.logical_not(tf.reduce_all(tf.math.is_finite(vector_gradients)))
            travelling.append(tf.cast(bad, tf.float32))
        travelled = self._cluster.all_reduce_mean(travelling, "dense_gradients")
        gradients = [gradient / scale for gradient in travelled[: len(gradients)]]
        loss, votes = travelled[len(gradients) : len(gradients) + 2]
        if not self._scale.skips:
            return loss, votes, gradients, None
        numbers = [travelled[-1] == 0, tf.math.is_finite(loss)]
        numbers += [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients]
        return loss, votes, gradients, tf.reduce_all(tf.stack(numbers))

    def update(
        self,
        gradients: list[tf.Tensor],
        loss: tf.Tensor,
        learning_rate: tf.Tensor,
        finite: tf.Tensor | None,
    ) -> tuple[()]:
        """Applies the dense gradients and records the loss."""
        self._apply(gradients, learning_rate, finite)
        self._losses.add(loss, finite)
        return ()

    def _apply(self, gradients, learning_rate, finite):
        if finite is None:
            self._optimizer.apply(gradients, learning_rate)
            return

        def apply():
            self._optimizer.apply(gradients, learning_rate)
            return True

        # Skipped entirely: a gradient of zeros would still move Adam's averages.
        tf.cond(finite, apply, lambda: False)
        self._scale.after_step(finite)
