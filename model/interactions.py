"""The interactions of DLRM, which compute the top MLP's input: one class each, and a registry.

Shapes: B samples, T tables, D embedding dimension (= width of the bottom MLP's output),
F = T + 1 feature vectors, W the interaction's output width.

This module does not import TensorFlow when imported, because the planner and the flags use it;
classes import TensorFlow when they compute.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import tensorflow as tf

    Tensors = Mapping[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A trainable float32 variable of an interaction.

    Attributes:
        name: unique within the interaction.
        shape: of the variable.
        deviation: initial values are N(0, deviation); 0 gives zeros.
    """

    name: str
    shape: tuple[int, ...]
    deviation: float = 0.0


@dataclasses.dataclass(frozen=True)
class InteractionOptions:
    """Sizes of interactions that have layers. Every interaction accepts them and uses its own.

    Attributes:
        cross_layers: L, the layers of the cross network, at least 1.
        cross_rank: r, the rank of its kernels; 0: full rank.

    Raises:
        ValueError: a value is too small.
    """

    cross_layers: int = 3
    cross_rank: int = 512

    def __post_init__(self) -> None:
        for name, least in (("cross_layers", 1), ("cross_rank", 0)):
            if getattr(self, name) < least:
                found = getattr(self, name)
                raise ValueError(f"{name}: expected a number of at least {least}, found {found}")


class Interaction(abc.ABC):
    """Maps the bottom MLP's output and the embedding vectors to the top MLP's input.

    A subclass defines the abstract properties, `compute`, `name` and `summary`; an entry in
    `INTERACTIONS` makes it a value of --interaction. A subclass with a native op defines
    `compute_native` with the same parameters and output layout, and sets `has_native_op` (the flag
    --custom_interact selects the op) or `follows_mlp` (fused MLPs on a CPU do).

    Args:
        tables: T, at least 1.
        dimension: D, at least 1.
        options: sizes of layers.
    """

    name: ClassVar[str]
    #: The top MLP's input, for the help of --interaction.
    summary: ClassVar[str]
    has_native_op: ClassVar[bool] = False
    follows_mlp: ClassVar[bool] = False

    def __init__(
        self, tables: int, dimension: int, options: InteractionOptions = InteractionOptions()
    ) -> None:
        self.tables = tables
        self.dimension = dimension
        self.options = options

    @property
    def features(self) -> int:
        """F, the number of feature vectors: the bottom MLP's output and one per table."""
        return self.tables + 1

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """W, the columns of the output."""

    @property
    @abc.abstractmethod
    def flops(self) -> int:
        """Floating-point operations per sample, forward and backward."""

    @property
    @abc.abstractmethod
    def values(self) -> int:
        """Values of activations and gradients moved per sample, forward and backward."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The trainable variables, in checkpoint order."""
        return ()

    @abc.abstractmethod
    def compute(self, bottom: tf.Tensor, vectors: tf.Tensor, parameters: Tensors) -> tf.Tensor:
        """Returns the top MLP's input, computed with TensorFlow's ops.

        The ops must have gradients and be supported by XLA; exported models contain them.

        Args:
            bottom: [B, D] in the compute dtype: float32, bfloat16 or float16.
            vectors: [B, T, D], same type. T and D are static.
            parameters: {name: tensor} of `self.parameters`, same type.

        Returns:
            [B, W], same type.
        """

    def compute_native(
        self,
        bottom: tf.Tensor,
        vectors: tf.Tensor,
        parameters: Tensors,
        for_inference: bool = False,
    ) -> tf.Tensor:
        """Same as `compute`, with the project's op, which XLA does not compile.

        Args:
            bottom, vectors: as for `compute`.
            parameters: {name: tensor} of `self.parameters`, float32.
            for_inference: no gradient can be taken, and nothing is stored for it.

        Raises:
            ops.loader.LibraryNotBuiltError: the native library is not built.
        """
        raise NotImplementedError(f"the interaction {self.name!r} has no native op")


class DotInteraction(Interaction):
    """The bottom MLP's output, then the dot products of all pairs of feature vectors.

    Output: [bottom output (D) | products of vectors i > j, row-major (F (F - 1) / 2) | zeros], with
    W rounded up to a multiple of 8 for 16-bit matrix products. See `ops.dot_interaction`; formula:
    Naumov et al. 2019, https://arxiv.org/abs/1906.00091.
    """

    name = "dot"
    summary = "the bottom MLP's output and the dot products of all pairs of vectors"
    has_native_op = True

    @property
    def width(self) -> int:
        """W: D + F (F - 1) / 2, rounded up to a multiple of 8."""
        used = self.dimension + self.features * (self.features - 1) // 2
        return -(-used // 8) * 8

    @property
    def flops(self) -> int:
        """Operations of the full F x F product and its gradient."""
        return 2 * 2 * self.features**2 * self.dimension

    @property
    def values(self) -> int:
        """The features twice and their gradient; the output and its gradient."""
        return 3 * self.features * self.dimension + 2 * self.width

    def compute(self, bottom: tf.Tensor, vectors: tf.Tensor, parameters: Tensors) -> tf.Tensor:
        """See `Interaction.compute`."""
        from ops.dot_interaction import dot_interaction_tensorflow

        return dot_interaction_tensorflow(bottom, vectors)

    def compute_native(
        self,
        bottom: tf.Tensor,
        vectors: tf.Tensor,
        parameters: Tensors,
        for_inference: bool = False,
    ) -> tf.Tensor:
        """See `Interaction.compute_native`."""
        from ops.dot_interaction import dot_interaction

        return dot_interaction(bottom, vectors)


class Concatenation(Interaction):
    """The feature vectors one after another: [bottom output (D) | vectors in table order (T D)].

    Equals `--interaction_op=cat` of NVIDIA's DeepLearningExamples. No padding: W is a multiple of
    8, which 16-bit matrix products prefer, if D is one.
    """

    name = "cat"
    summary = "all vectors"

    @property
    def width(self) -> int:
        """W: T D + D."""
        return self.features * self.dimension

    @property
    def flops(self) -> int:
        """Zero: values are only copied."""
        return 0

    @property
    def values(self) -> int:
        """One copy each way."""
        return 2 * 2 * self.width

    def compute(self, bottom: tf.Tensor, vectors: tf.Tensor, parameters: Tensors) -> tf.Tensor:
        """See `Interaction.compute`."""
        import tensorflow as tf

        flat = tf.reshape(vectors, [-1, self.tables * self.dimension])
        return tf.concat([bottom, flat], axis=1)


class CrossInteraction(Concatenation):
    """A cross network over the concatenation of all vectors, as in DLRM-DCNv2.

    x0 = [bottom output | vectors in table order], n = (T + 1) D columns, is the input and sets the
    output width. Layer l computes x0 * (x V_l W_l + b_l) + x, with elementwise products; full rank
    has one kernel W_l [n, n]. Formula: Wang et al. 2020, https://arxiv.org/abs/2008.13535. See
    `ops.cross`.
    """

    name = "cross"
    summary = (
        "the cross network of DCN V2 over all vectors, of --cross_layers layers of --cross_rank"
    )
    follows_mlp = True

    @property
    def _kernel_shapes(self):
        """{name: shape} of the kernels of a layer, in the order of their products."""
        width, rank = self.width, self.options.cross_rank
        if rank == 0:
            return {"w_kernel": (width, width)}
        return {"v_kernel": (width, rank), "w_kernel": (rank, width)}

    @property
    def flops(self) -> int:
        """Operations of the matrix products: one for each kernel forward, two backward."""
        kernels = sum(math.prod(shape) for shape in self._kernel_shapes.values())
        return 3 * 2 * self.options.cross_layers * kernels

    @property
    def values(self) -> int:
        """The concatenation each way, and the layers' passes over their activations.

        Forward: products n -> r -> n, elementwise 3 n read and n written: 6 n + 2 r. Backward:
        elementwise 4 n read and 2 n written, two kernel gradients 2 (n + r), two input gradients
        2 (n + r) and their addition n: 11 n + 4 r. (Full rank: r = 0.)
        """
        width, rank = self.width, self.options.cross_rank
        return super().values + self.options.cross_layers * (17 * width + 6 * rank)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Kernels (Xavier-normal) and bias (zero) of each layer."""
        found = []
        for layer in range(self.options.cross_layers):
            for name, shape in self._kernel_shapes.items():
                found.append(Parameter(f"{name}_{layer}", shape, math.sqrt(2 / sum(shape))))
            found.append(Parameter(f"bias_{layer}", (self.width,)))
        return tuple(found)

    def _weights(self, parameters):
        """Returns (kernels, biases) in the order of `ops.cross`."""
        layers = range(self.options.cross_layers)
        kernels = [parameters[f"{name}_{i}"] for i in layers for name in self._kernel_shapes]
        return kernels, [parameters[f"bias_{i}"] for i in layers]

    def compute(self, bottom: tf.Tensor, vectors: tf.Tensor, parameters: Tensors) -> tf.Tensor:
        """See `Interaction.compute`."""
        from ops.cross import cross_network_tensorflow

        x0 = super().compute(bottom, vectors, parameters)
        return cross_network_tensorflow(x0, *self._weights(parameters))

    def compute_native(
        self,
        bottom: tf.Tensor,
        vectors: tf.Tensor,
        parameters: Tensors,
        for_inference: bool = False,
    ) -> tf.Tensor:
        """See `Interaction.compute_native`."""
        from ops.cross import cross_network

        x0 = super().compute(bottom, vectors, parameters)
        return cross_network(x0, *self._weights(parameters), for_inference=for_inference)


class NoInteraction(Interaction):
    """The layout of `DotInteraction` with all products zero: vectors do not reach the top MLP.

    An ablation that shows the contribution of the interaction: the models are otherwise equal.
    """

    name = "none"
    summary = "the bottom MLP's output alone"

    @property
    def width(self) -> int:
        """W of `DotInteraction`."""
        return DotInteraction(self.tables, self.dimension).width

    @property
    def flops(self) -> int:
        """Zero: values are only copied."""
        return 0

    @property
    def values(self) -> int:
        """D values read, W written; backward D read, D written, and T D zeros written."""
        return 3 * self.dimension + self.width + self.tables * self.dimension

    def compute(self, bottom: tf.Tensor, vectors: tf.Tensor, parameters: Tensors) -> tf.Tensor:
        """See `Interaction.compute`."""
        import tensorflow as tf

        return tf.pad(bottom, [[0, 0], [0, self.width - self.dimension]])


INTERACTIONS: dict[str, type[Interaction]] = {
    interaction.name: interaction
    for interaction in (DotInteraction, Concatenation, CrossInteraction, NoInteraction)
}


def interaction_class(name: str) -> type[Interaction]:
    """Returns the class of an interaction.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in INTERACTIONS:
        raise ValueError(f"unknown interaction {name!r}, expected one of {', '.join(INTERACTIONS)}")
    return INTERACTIONS[name]


def check_native(name: str) -> None:
    """Checks that an interaction has a native op that --custom_interact selects.

    Raises:
        ValueError: it has none, or the name is unknown.
    """
    found = interaction_class(name)
    if found.follows_mlp:
        raise ValueError(f"the native op of the interaction {name!r} is used if the MLPs are fused")
    if not found.has_native_op:
        native = ", ".join(n for n, kind in INTERACTIONS.items() if kind.has_native_op)
        raise ValueError(f"the interaction {name!r} has no native op, only {native}")
