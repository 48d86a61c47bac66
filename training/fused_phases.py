"""The gradients of the dense part on a GPU by explicit calls of the project's fused ops.

Shapes: b local batch, T tables, D embedding dimension.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ops.log_loss.native import MOST_WIDTH, log_loss
from ops.mlp import MlpActivations
from ops.side_stream import join_side_stream
from training import phases
from training.dense_phases import StepParts
from training.phases import Phase


class FusedGradients:
    """Implements `training.dense_phases.Gradients` for fused MLPs.

    The bottom MLP's backward pass is a phase of its own: the gradients of the vectors travel to the
    other ranks at the same time. A tape is only used for the interaction, which may have no native
    op.

    Args:
        parts: the objects that the step uses; the model's MLPs are fused.
    """

    def __init__(self, parts: StepParts):
        self._model, self._scale = parts.dense_model, parts.scale
        self._side_stream = parts.embedding.side_stream
        top = self._model.top
        self._hidden_layers, self._last_inputs = len(top.sizes) - 1, (top.inputs, *top.sizes)[-2]

    def phases(self, device: str | None) -> tuple[Phase, tuple[Phase, ...]]:
        """See `Gradients.phases`."""
        return (
            Phase(
                phases.DENSE,
                self.forward_and_backward,
                ("dense", "vectors", "label"),
                ("loss", "vector_gradients", "loss_scale", "upper_gradients", "bottom_backward"),
                waits_for="vectors",  # the bottom MLP runs before they arrive
                early=("vector_gradients", "loss_scale"),
                device=device,
            ),
            (
                Phase(
                    phases.BOTTOM_BACKWARD,
                    self.bottom_backward,
                    ("bottom_backward", "upper_gradients"),
                    ("gradients",),
                    device=device,
                ),
            ),
        )

    def forward_and_backward(
        self, dense: tf.Tensor, vectors: tf.Tensor, label: tf.Tensor
    ) -> tuple[tf.Tensor, Any, tf.Tensor, list[Any], tuple[Any, MlpActivations]]:
        """Runs everything but the backward pass of the bottom MLP.

        Returns:
            (loss, vector_gradients, loss_scale, gradients of the variables after the bottom MLP,
            arguments of the bottom MLP's backward pass); see `Gradients.phases`.
        """
        model, scale = self._model, self._scale.tensor()
        bottom, features, vectors = self._bottom_forward(dense, vectors)
        with tf.GradientTape() as tape:
            tape.watch([features, vectors])
            interacted = model.interaction(features, vectors)
        top = model.top.forward_for_training(interacted, self._hidden_layers)
        loss, hidden_gradient, last_gradients, before_relu = self._loss(top.y, label, scale)
        gradient: Any
        gradient, top_gradients = model.top.backward(
            hidden_gradient, top, self._hidden_layers, before_relu=before_relu
        )
        sources: list[Any] = [features, vectors, *model.interaction.variables]
        bottom_gradient, vector_gradients, *interaction_gradients = tape.gradient(
            interacted,
            sources,
            output_gradients=gradient,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        upper = [*interaction_gradients, *top_gradients, *last_gradients]
        return loss, vector_gradients, scale, upper, (bottom_gradient, bottom)

    def _bottom_forward(
        self, dense: tf.Tensor, vectors: tf.Tensor
    ) -> tuple[MlpActivations, tf.Tensor, tf.Tensor]:
        """Returns (the bottom MLP's activations, its result, the vectors)."""
        dense, bottom = tf.cast(dense, self._model.compute_dtype), self._model.bottom
        if not self._side_stream.lookup:
            activations = bottom.forward_for_training(dense)
            return activations, activations.y, vectors
        # The lookup is launched first, so that the MLP runs next to it, and joined after the MLP.
        with tf.control_dependencies([vectors]):
            activations = bottom.forward_for_training(dense)
        joined = join_side_stream(self._side_stream.variables, [activations.y, vectors])
        return activations, joined[0], joined[1]

    def bottom_backward(
        self, arguments: tuple[tf.Tensor, MlpActivations], upper_gradients: list[tf.Tensor]
    ) -> tuple[list[tf.Tensor]]:
        """Returns (the gradients of all variables,), given results of `forward_and_backward`."""
        gradient, activations = arguments
        _, gradients = self._model.bottom.backward(gradient, activations, input_gradient=False)
        return ([*gradients, *upper_gradients],)

    def _loss(
        self, hidden: tf.Tensor, label: tf.Tensor, scale: tf.Tensor
    ) -> tuple[tf.Tensor, Any, list[Any], bool]:
        """Applies the last layer to its input [b, n].

        Returns:
            (loss, gradient of `hidden`, gradients of kernel and bias, whether the gradient of
            `hidden` is that of its ReLU's input).
        """
        last, relu = self._model.top.dense_layers[-1], self._hidden_layers > 0
        if self._last_inputs <= MOST_WIDTH:
            loss, gradient, *gradients = log_loss(
                hidden, last.kernel, last.bias, label, scale, relu=relu
            )
            return loss, gradient, gradients, relu
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            logits = tf.cast(last(hidden), tf.float32)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=label, logits=logits)
            loss = tf.reduce_mean(losses)
            scaled = scale * loss
        gradient, *gradients = tape.gradient(scaled, [hidden, last.kernel, last.bias])
        return loss, gradient, gradients, False
