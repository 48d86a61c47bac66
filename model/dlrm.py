"""The dense part of DLRM: bottom MLP, dot interaction, top MLP.

Shapes: B local batch, T tables, D embedding dimension (= width of the bottom MLP's output).
The embedding, which is model-parallel, lives in `model.embedding`; this part is data-parallel.
"""

import tensorflow as tf

from model.mlp import MLP
from ops import loader
from ops.dot_interaction import dot_interaction, dot_interaction_tensorflow, output_width

_BOTTOM_STREAM, _TOP_STREAM = 1, 2


class DenseDLRM(tf.keras.Model):
    """Maps dense features and embedding vectors to logits.

    Args:
        dense_features: number of dense features.
        tables: number of embedding tables, T.
        bottom_mlp: widths of the bottom MLP; the last one is D.
        top_mlp: widths of the top MLP; the last one is 1.
        seed: the run's seed.
        custom_interact: take the project's interaction op; otherwise TensorFlow's own ops. Both
            give the same layout, so weights interchange.
        xla: compile the dense parts. The custom op stays outside the compiled functions.
        fused_mlp: compute each MLP by the project's op (CPUs); otherwise by TensorFlow's own
            layers. The variables are the same. Not with `xla`, nor in float16.
        interact: False cuts the interaction: all that reaches the top MLP beside the bottom output
            is zeros. For judging what the interaction contributes.
        dtype: a Keras dtype policy, e.g. "float32" or "mixed_bfloat16".

    Raises:
        ValueError: the widths do not fit together, or `fused_mlp` cannot be.
        ops.loader.LibraryNotBuiltError: `custom_interact` or `fused_mlp` without the native op
            library that has the op.
    """

    def __init__(
        self,
        *,
        dense_features,
        tables,
        bottom_mlp,
        top_mlp,
        seed,
        custom_interact=False,
        xla=False,
        fused_mlp=False,
        interact=True,
        dtype="float32",
    ):
        super().__init__(name="dlrm", dtype=dtype)
        if top_mlp[-1] != 1:
            raise ValueError(f"the top MLP must end in one logit, got widths {list(top_mlp)}")
        if custom_interact:
            loader.load()
        if fused_mlp:
            if xla:
                raise ValueError("XLA compiles TensorFlow's layers, not the fused MLP: take either")
            if self.compute_dtype == "float16":
                raise ValueError("the fused MLP has float32 and bfloat16, not float16")
            loader.load("mlp")
        self.dimension = bottom_mlp[-1]
        self.tables = tables
        self._fused_mlp = fused_mlp
        policy = self._dtype_policy
        self.bottom = MLP(
            bottom_mlp,
            dense_features,
            seed=seed,
            stream=_BOTTOM_STREAM,
            fused=fused_mlp,
            name="bottom",
            dtype=policy,
        )
        self.top = MLP(
            top_mlp,
            output_width(tables + 1, self.dimension),
            seed=seed,
            stream=_TOP_STREAM,
            fused=fused_mlp,
            last_relu=False,
            name="top",
            dtype=policy,
        )
        self._interact = dot_interaction if custom_interact else dot_interaction_tensorflow
        if not interact:
            self._interact = no_interaction
        self._forward = self._plain_forward
        if xla and custom_interact:
            self._compiled_bottom = tf.function(
                self._bottom_part, jit_compile=True, autograph=False
            )
            self._compiled_top = tf.function(self._top_part, jit_compile=True, autograph=False)
            self._forward = self._split_forward
        elif xla:
            self._forward = tf.function(self._plain_forward, jit_compile=True, autograph=False)

    def call(self, dense, vectors, for_inference=False):
        """Returns float32 logits.

        Args:
            dense: [B, dense_features] float32, transformed.
            vectors: [B, T, D] embedding vectors, in the compute dtype or float32.
            for_inference: no gradient will be taken: a fused MLP keeps nothing for it.

        Returns:
            [B, 1] float32.
        """
        # Nothing but the fused MLPs heeds it: XLA would compile the same function once more.
        return self._forward(dense, vectors, for_inference and self._fused_mlp)

    def _bottom_part(self, dense, for_inference):
        return self.bottom(tf.cast(dense, self.compute_dtype), for_inference=for_inference)

    def _top_part(self, interacted, for_inference):
        return tf.cast(self.top(interacted, for_inference=for_inference), tf.float32)

    def _plain_forward(self, dense, vectors, for_inference):
        bottom = self._bottom_part(dense, for_inference)
        interacted = self._interact(bottom, tf.cast(vectors, bottom.dtype))
        return self._top_part(interacted, for_inference)

    def _split_forward(self, dense, vectors, for_inference):
        bottom = self._compiled_bottom(dense, for_inference)
        interacted = self._interact(bottom, tf.cast(vectors, bottom.dtype))
        return self._compiled_top(interacted, for_inference)


def no_interaction(bottom, vectors):
    """Returns the interaction's layout with every pair zero: [B, T, D] vectors -> [B, width]."""
    width = output_width(vectors.shape[1] + 1, bottom.shape[1])
    return tf.pad(bottom, [[0, 0], [0, width - bottom.shape[1]]])
