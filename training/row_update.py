"""The phases of a training step that follow the gradients of the vectors, with the update of rows.

By default rows are updated last. With `--embedding_stream` a GPU updates them next to other phases:
their update is launched before those phases, and joined after them (`ops.side_stream`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from model.embedding.interface import ExchangePlan
from ops.side_stream import join_side_stream
from training import phases
from training.dense_phases import LossRecord, StepParts
from training.phases import Phase


class RowUpdate:
    """The update of rows among the phases of a step.

    Args:
        parts: the objects that the step uses.
        losses: the record that `update` of `arrange` writes.
        device: name of the GPU, or None.
    """

    def __init__(self, parts: StepParts, losses: LossRecord, device: str | None):
        self._embedding, self._rate = parts.embedding, parts.embedding_rate
        self._row_optimizer, self._dense_optimizer = parts.embedding.optimizer, parts.optimizer
        self._has_factor = self._row_optimizer.rate_factor is not None
        self._side_stream, self._skips = parts.embedding.side_stream, parts.scale.skips
        self._ranks, self._device = parts.cluster.size, device
        # Their last ops are launched before the join.
        self._others = (*parts.dense_model.trainable_variables, *losses.variables)

    def arrange(self, lower: tuple[Phase, ...], average: Phase, update: Phase) -> tuple[Phase, ...]:
        """Returns all phases that follow the gradients of the vectors, in order.

        Args:
            lower: the phases of the backward pass that do not use these gradients.
            average: the average of the dense gradients, which finds out if the step is skipped.
            update: the update of the dense variables, which also records the loss.
        """
        # First, so that the gradients travel during the phases that do not use them.
        exchange = Phase(
            phases.EXCHANGE_GRADIENTS,
            self._exchange,
            ("plan", "rows", "vector_gradients", *["learning_rate"] * self._has_factor),
            ("row_gradients", *["row_rate"] * self._has_factor),
            waits_for="vector_gradients",
            device=self._device,
        )
        if not self._side_stream.update:
            return exchange, *lower, average, update, self._phase("finite")
        if self._skips:
            return (
                exchange,
                *lower,
                average,
                self._phase("finite"),
                self._next_to(update),
                self._join(),
            )
        # Without `finite`, which the average returns.
        next_to_it = map(self._next_to, lower)
        return exchange, self._phase(), *next_to_it, average, update, self._join()

    def _phase(self, *finite: str) -> Phase:
        rate = "row_rate" if self._has_factor else "learning_rate"
        return Phase(
            phases.UPDATE_ROWS,
            self._update,
            ("plan", "row_gradients", rate, "loss_scale", *finite),
            ("rows_updated",) if self._side_stream.update else (),
            waits_for="row_gradients",
            device=self._device,
        )

    def _next_to(self, phase: Phase) -> Phase:
        """Returns a phase that is launched after the update of rows."""
        # On several ranks the update waits for gradients on the host, and the phase must not.
        return dataclasses.replace(phase, after=("rows_updated",)) if self._ranks == 1 else phase

    def _join(self) -> Phase:
        def join(updated):
            join_side_stream([*self._side_stream.variables, *self._others], [updated])
            return ()

        return Phase(phases.JOIN_UPDATE, join, ("rows_updated",), device=self._device)

    def _exchange(self, plan, rows, gradients, *learning_rate):
        """Returns the gradients of this rank's rows.

        If the optimizer has a factor on the learning rate, also returns their product.
        """
        returned = self._embedding.exchange_gradients(plan, rows, gradients)
        return (returned, *map(self._row_rate, learning_rate))

    def _row_rate(self, learning_rate: tf.Tensor) -> tf.Tensor:
        optimizer = self._row_optimizer
        assert optimizer.rate_factor is not None
        # The dense update, which follows in every order of the phases, counts the updates.
        number = tf.cast(self._dense_optimizer.updates.read_value() + 1, tf.float32)
        return learning_rate * optimizer.rate_factor(tf, number, optimizer.rule_values)

    def _update(
        self,
        plan: ExchangePlan,
        gradients: Any,
        learning_rate: tf.Tensor,
        loss_scale: tf.Tensor,
        finite: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, ...]:
        """Updates the rows; on the side stream, returns a tensor for what is launched after it."""
        scale = 1.0 / loss_scale
        if finite is not None:
            # A scale of 0 skips the update. A condition would bring `finite` to the host.
            scale = tf.where(finite, scale, 0.0)
        rate = learning_rate if self._rate == 1.0 else self._rate * learning_rate
        updates = self._embedding.update_local(plan, gradients, rate, scale)
        if not self._side_stream.update:
            return ()
        with tf.control_dependencies(updates):
            return (tf.identity(learning_rate),)
