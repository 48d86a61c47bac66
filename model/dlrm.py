"""The dense part of DLRM: bottom MLP, interaction, top MLP.

Shapes: B local batch, T tables, D embedding dimension (= width of the bottom MLP's output).
This part is data-parallel; the model-parallel embedding is in `model.embedding`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from model.interactions import (
    Interaction,
    InteractionOptions,
    check_native,
    interaction_class,
)
from model.mlp import MLP
from ops import loader
from ops.mlp import kernel_device, load_kernels

_BOTTOM_STREAM, _TOP_STREAM, _INTERACTION_STREAM = 1, 2, 3


@dataclasses.dataclass(frozen=True)
class DLRMConfig:
    """The architecture of a dense part and how to compute it.

    Attributes:
        dense_features: number of dense features.
        tables: number of embedding tables, T.
        bottom_mlp: widths of the bottom MLP; the last one is D.
        top_mlp: widths of the top MLP; the last one is 1.
        interaction: a name in `model.interactions.INTERACTIONS`.
        cross_layers, cross_rank: see `model.interactions.InteractionOptions`.
        seed: the run's seed; determines the initial weights.
        custom_interact: compute the interaction with its native op instead of TensorFlow's ops.
            Both have the same layout, so weights interchange.
        xla: compile the dense parts with XLA. A native op stays outside the compiled functions.
        fused_mlp: compute each MLP with the project's op instead of TensorFlow's layers, on CPUs
            also an interaction whose native op follows the MLPs (cross). The variables are the
            same. Not with `xla`; float16 needs a GPU.
        tf32: let GPUs round the operands of float32 products of fused MLPs to TF32. TensorFlow's
            layers follow `tf.config.experimental.enable_tensor_float_32_execution` instead.
        compute_dtype: dtype of arithmetic: "float32", "bfloat16" or "float16". Variables and
            logits are always float32.

    Raises:
        ValueError: the widths are inconsistent, the interaction is unknown, its options are out of
            range, or `fused_mlp` or `custom_interact` is not possible.
    """

    dense_features: int
    tables: int
    bottom_mlp: Sequence[int]
    top_mlp: Sequence[int]
    interaction: str = "dot"
    cross_layers: int = 3
    cross_rank: int = 512
    seed: int = 0
    custom_interact: bool = False
    xla: bool = False
    fused_mlp: bool = False
    tf32: bool = True
    compute_dtype: str = "float32"

    def __post_init__(self):
        for name in ("bottom_mlp", "top_mlp"):
            if not getattr(self, name):
                raise ValueError(f"{name.replace('_mlp', ' MLP')}: expected at least one layer")
        if self.top_mlp[-1] != 1:
            raise ValueError(f"top MLP: expected a last width of 1, found {list(self.top_mlp)}")
        self.make_interaction()
        if self.custom_interact:
            check_native(self.interaction)
        if self.fused_mlp and self.xla:
            raise ValueError("fused_mlp: not possible with xla, which compiles TensorFlow's layers")

    def make_interaction(self) -> Interaction:
        """Returns the interaction of this model."""
        options = InteractionOptions(self.cross_layers, self.cross_rank)
        return interaction_class(self.interaction)(self.tables, self.bottom_mlp[-1], options)

    def variable_shapes(self) -> list[tuple[int, ...]]:
        """Returns the shapes of `DenseDLRM.variables`, in order, without creating them."""
        interaction = self.make_interaction()
        return [
            *_mlp_shapes(self.dense_features, self.bottom_mlp),
            *(parameter.shape for parameter in interaction.parameters),
            *_mlp_shapes(interaction.width, self.top_mlp),
        ]


def _mlp_shapes(inputs, widths):
    shapes = []
    for outputs in widths:
        shapes += [(inputs, outputs), (outputs,)]
        inputs = outputs
    return shapes


class DenseDLRM(tf.Module):
    """Maps dense features and embedding vectors to logits.

    Args:
        config: its architecture and how to compute it.

    Attributes:
        dense_features, tables, dimension: sizes of its inputs.
        compute_dtype: the dtype of arithmetic.
        bottom, interaction, top: its parts.

    Raises:
        ops.loader.LibraryNotBuiltError: `custom_interact` or `fused_mlp`, but the op's native
            library is not built.
        TypeError: `fused_mlp`, but the op has no kernel of `compute_dtype` for the device.
    """

    def __init__(self, config: DLRMConfig) -> None:
        super().__init__(name="dlrm")
        if config.custom_interact:
            loader.load()
        self.dense_features = config.dense_features
        self.dimension = config.bottom_mlp[-1]
        self.tables = config.tables
        self.compute_dtype = tf.as_dtype(config.compute_dtype)
        if config.fused_mlp:
            load_kernels(self.compute_dtype)
        # With XLA, a separate inference function would only compile the same code twice.
        self._distinguishes_inference = not config.xla
        interaction = config.make_interaction()
        native = config.custom_interact or (
            config.fused_mlp and interaction.follows_mlp and kernel_device() == "CPU"
        )
        options = {"seed": config.seed, "fused": config.fused_mlp, "tf32": config.tf32}
        self.bottom = MLP(
            config.bottom_mlp, self.dense_features, stream=_BOTTOM_STREAM, name="bottom", **options
        )
        self.interaction = _InteractionLayer(
            interaction, native=native, xla=config.xla, seed=config.seed, name="interaction",
        )  # fmt: skip
        self.top = MLP(
            config.top_mlp, interaction.width, stream=_TOP_STREAM, last_relu=False, name="top",
            **options,
        )  # fmt: skip
        self._forward = self._plain_forward
        if config.xla and config.custom_interact:
            self._compiled_bottom = tf.function(
                self._bottom_part, jit_compile=True, autograph=False
            )
            self._compiled_top = tf.function(self._top_part, jit_compile=True, autograph=False)
            self._forward = self._split_forward
        elif config.xla:
            self._forward = tf.function(self._plain_forward, jit_compile=True, autograph=False)

    @property
    def variables(self) -> tuple[tf.Variable, ...]:
        """All variables in checkpoint order: bottom MLP, interaction, top MLP."""
        return (*self.bottom.variables, *self.interaction.variables, *self.top.variables)

    @property
    def trainable_variables(self) -> tuple[tf.Variable, ...]:
        """All variables."""
        return self.variables

    def __call__(
        self, dense: tf.Tensor, vectors: tf.Tensor, for_inference: bool = False
    ) -> tf.Tensor:
        """Returns float32 logits.

        Args:
            dense: [B, dense_features] float32, transformed.
            vectors: [B, T, D] embedding vectors, in the compute dtype or float32.
            for_inference: no gradient is needed, so nothing is stored for it.

        Returns:
            [B, 1] float32.
        """
        with tf.name_scope(self.name):
            return self._forward(dense, vectors, for_inference and self._distinguishes_inference)

    def _bottom_part(self, dense, for_inference):
        return self.bottom(tf.cast(dense, self.compute_dtype), for_inference=for_inference)

    def _top_part(self, interacted, for_inference):
        return tf.cast(self.top(interacted, for_inference=for_inference), tf.float32)

    def _plain_forward(self, dense, vectors, for_inference):
        bottom = self._bottom_part(dense, for_inference)
        return self._top_part(self.interaction(bottom, vectors, for_inference), for_inference)

    def _split_forward(self, dense, vectors, for_inference):
        bottom = self._compiled_bottom(dense, for_inference)
        interacted = self.interaction(bottom, vectors, for_inference)
        return self._compiled_top(interacted, for_inference)


class _InteractionLayer(tf.Module):
    """An interaction with its variables: [B, D], [B, T, D] -> [B, W].

    Args:
        interaction: the interaction.
        native: use its native op instead of TensorFlow's ops.
        xla: XLA compiles TensorFlow's ops, forward and backward as two functions.
        seed: the run's seed; determines the initial values.
    """

    def __init__(
        self, interaction: Interaction, *, native: bool, xla: bool, seed: int, name: str
    ) -> None:
        super().__init__(name=name)
        self._interaction = interaction
        self._native = native
        self._compute = interaction.compute
        if xla:
            # Otherwise the compiled forward function returns the ops' axes to the backward function
            # in the GPU's memory, which reads them on the host in every step, before it starts.
            self._compute = tf.recompute_grad(interaction.compute)
        generator = np.random.Generator(np.random.Philox(key=[seed, _INTERACTION_STREAM]))
        self._parameters = {}
        for parameter in interaction.parameters:
            values = generator.normal(0.0, parameter.deviation, size=parameter.shape)
            self._parameters[parameter.name] = tf.Variable(
                tf.constant(values, tf.float32), name=f"{name}_{parameter.name}"
            )

    @property
    def variables(self) -> tuple[tf.Variable, ...]:
        """The variables in the order of `Interaction.parameters`."""
        return tuple(self._parameters.values())

    def __call__(
        self, bottom: tf.Tensor, vectors: tf.Tensor, for_inference: bool = False
    ) -> tf.Tensor:
        with tf.name_scope(self.name):
            vectors = tf.cast(vectors, bottom.dtype)
            parameters = {name: tf.convert_to_tensor(v) for name, v in self._parameters.items()}
            if self._native:
                return self._interaction.compute_native(bottom, vectors, parameters, for_inference)
            parameters = {name: tf.cast(v, bottom.dtype) for name, v in parameters.items()}
            return self._compute(bottom, vectors, parameters)
