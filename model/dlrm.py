"""The dense part of DLRM: bottom MLP, interaction, top MLP.

Shapes: B local batch, T tables, D embedding dimension (= width of the bottom MLP's output).
The embedding, which is model-parallel, lives in `model.embedding`; this part is data-parallel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from model.interactions import Interaction, check_native, interaction_class
from model.mlp import MLP
from ops import loader

_BOTTOM_STREAM, _TOP_STREAM, _INTERACTION_STREAM = 1, 2, 3


@dataclasses.dataclass(frozen=True)
class DLRMConfig:
    """What a dense part is, and how it is computed.

    Attributes:
        dense_features: number of dense features.
        tables: number of embedding tables, T.
        bottom_mlp: widths of the bottom MLP; the last one is D.
        top_mlp: widths of the top MLP; the last one is 1.
        interaction: a name in `model.interactions.INTERACTIONS`.
        seed: the run's seed, of the initial weights.
        custom_interact: compute the interaction by its native op; otherwise by TensorFlow's own
            ops. Both give the same layout, so weights interchange.
        xla: compile the dense parts. A native op stays outside the compiled functions.
        fused_mlp: compute each MLP by the project's op (CPUs); otherwise by TensorFlow's own
            layers. The variables are the same. Not with `xla`, nor in float16.
        dtype: a Keras dtype policy, e.g. "float32" or "mixed_bfloat16".

    Raises:
        ValueError: the widths do not fit together, the interaction is unknown, or `fused_mlp` or
            `custom_interact` is not possible.
    """

    dense_features: int
    tables: int
    bottom_mlp: Sequence[int]
    top_mlp: Sequence[int]
    interaction: str = "dot"
    seed: int = 0
    custom_interact: bool = False
    xla: bool = False
    fused_mlp: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        for name in ("bottom_mlp", "top_mlp"):
            if not getattr(self, name):
                raise ValueError(f"the {name.replace('_mlp', ' MLP')} has no layer")
        if self.top_mlp[-1] != 1:
            raise ValueError(f"the top MLP must end in one logit, got widths {list(self.top_mlp)}")
        interaction_class(self.interaction)
        if self.custom_interact:
            check_native(self.interaction)
        if self.fused_mlp and self.xla:
            raise ValueError("XLA compiles TensorFlow's layers, not the fused MLP: take either")
        if self.fused_mlp and "float16" in self.dtype and "bfloat16" not in self.dtype:
            raise ValueError("the fused MLP has float32 and bfloat16, not float16")

    def make_interaction(self) -> Interaction:
        """Returns the interaction of this model."""
        return interaction_class(self.interaction)(self.tables, self.bottom_mlp[-1])

    def variable_shapes(self) -> list[tuple[int, ...]]:
        """Returns the shapes of `DenseDLRM.variables`, in their order, without making any."""
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


class DenseDLRM(tf.keras.Model):
    """Maps dense features and embedding vectors to logits.

    Its variables, in the order in which a checkpoint has them: bottom MLP, interaction, top MLP.

    Args:
        config: what it is.

    Raises:
        ops.loader.LibraryNotBuiltError: `custom_interact` or `fused_mlp` without the native op
            library that has the op.
    """

    if TYPE_CHECKING:  # The stubs of Keras know models of one input.

        def __new__(cls, config: DLRMConfig) -> DenseDLRM:
            """Returns a new model."""
            ...

        def __call__(
            self, dense: tf.Tensor, vectors: tf.Tensor, for_inference: bool = False
        ) -> tf.Tensor:
            """See `call`."""
            ...

    def __init__(self, config: DLRMConfig) -> None:
        super().__init__(name="dlrm", dtype=config.dtype)
        if config.custom_interact:
            loader.load()
        if config.fused_mlp:
            loader.load("mlp")
        self.dense_features = config.dense_features
        self.dimension = config.bottom_mlp[-1]
        self.tables = config.tables
        # XLA would compile the same function once more for inference.
        self._heeds_inference = not config.xla
        interaction = config.make_interaction()
        common = {"seed": config.seed, "dtype": self._dtype_policy}
        self.bottom = MLP(
            config.bottom_mlp,
            config.dense_features,
            stream=_BOTTOM_STREAM,
            fused=config.fused_mlp,
            name="bottom",
            **common,
        )
        self.interaction = _InteractionLayer(
            interaction,
            native=config.custom_interact,
            stream=_INTERACTION_STREAM,
            name="interaction",
            **common,
        )
        self.top = MLP(
            config.top_mlp,
            interaction.width,
            stream=_TOP_STREAM,
            fused=config.fused_mlp,
            last_relu=False,
            name="top",
            **common,
        )
        self._forward = self._plain_forward
        if config.xla and config.custom_interact:
            self._compiled_bottom = tf.function(
                self._bottom_part, jit_compile=True, autograph=False
            )
            self._compiled_top = tf.function(self._top_part, jit_compile=True, autograph=False)
            self._forward = self._split_forward
        elif config.xla:
            self._forward = tf.function(self._plain_forward, jit_compile=True, autograph=False)

    def call(self, dense: tf.Tensor, vectors: tf.Tensor, for_inference: bool = False) -> tf.Tensor:
        """Returns float32 logits.

        Args:
            dense: [B, dense_features] float32, transformed.
            vectors: [B, T, D] embedding vectors, in the compute dtype or float32.
            for_inference: no gradient will be taken: nothing is kept for it.

        Returns:
            [B, 1] float32.
        """
        return self._forward(dense, vectors, for_inference and self._heeds_inference)

    def _bottom_part(self, dense, for_inference):
        return self.bottom(tf.cast(dense, self.compute_dtype), for_inference=for_inference)

    def _top_part(self, interacted, for_inference):
        return tf.cast(self.top(interacted, for_inference=for_inference), tf.float32)

    def _plain_forward(self, dense, vectors, for_inference):
        bottom = self._bottom_part(dense, for_inference)
        return self._top_part(self.interaction(bottom, vectors), for_inference)

    def _split_forward(self, dense, vectors, for_inference):
        bottom = self._compiled_bottom(dense, for_inference)
        return self._compiled_top(self.interaction(bottom, vectors), for_inference)


class _InteractionLayer(tf.keras.layers.Layer):
    """Holds an interaction's variables and applies it: [B, D], [B, T, D] -> [B, W].

    Args:
        interaction: what to apply.
        native: by its native op, not by TensorFlow's.
        seed, stream: of the initial values, see `model.mlp.initial_weights`.
    """

    if TYPE_CHECKING:  # The stubs of Keras know layers of one input.
        __call__: Any

    def __init__(self, interaction: Interaction, *, native, seed, stream, **kwargs):
        super().__init__(**kwargs)
        self._compute = interaction.compute_native if native else interaction.compute
        generator = np.random.Generator(np.random.Philox(key=[seed, stream]))
        self._parameters = {}
        for parameter in interaction.parameters:
            values = generator.normal(0.0, parameter.deviation, size=parameter.shape)
            self._parameters[parameter.name] = self.add_weight(
                name=f"{self.name}_{parameter.name}",
                shape=parameter.shape,
                dtype=tf.float32,
                initializer=tf.keras.initializers.Constant(values.astype(np.float32)),
            )
        self.built = True

    def call(self, bottom, vectors):
        # Within `call` Keras reads its variables in the compute dtype.
        parameters = {name: tf.convert_to_tensor(v) for name, v in self._parameters.items()}
        return self._compute(bottom, tf.cast(vectors, bottom.dtype), parameters)
