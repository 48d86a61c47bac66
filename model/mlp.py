"""Multi-layer perceptrons with DLRM's initial weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from ops.mlp import mlp, mlp_for_inference

# The slope of `relu` below zero: what it gives is far below any rounding. In float16 it is 0.
RELU_SLOPE = 2.0**-100


def relu_for_inference(x: tf.Tensor) -> tf.Tensor:
    """`relu` without its gradient, which a SavedModel would hold too."""
    return tf.nn.leaky_relu(x, alpha=RELU_SLOPE)


@tf.custom_gradient
def relu(x: tf.Tensor) -> Any:  # a tensor; the decorator takes the gradient away
    """ReLU that no library turns into one that loses NaN or infinity.

    `tf.nn.relu` is fused into the matrix product where oneDNN is on, and is then 0 for NaN: a
    diverged model would have finite losses. With a slope below zero, however small, all of them
    multiply by it what is not positive, and slope * NaN is NaN, slope * -inf is -inf (float16:
    NaN). It is fused all the same.

    Args:
        x: a float tensor of any shape.

    Returns:
        x where x > 0, else `RELU_SLOPE` * x: -0.0 or as good as 0 for finite x. The gradient is
        ReLU's: exactly 0 where x is not above 0.
    """
    y = relu_for_inference(x)
    return y, lambda gradient: tf.raw_ops.ReluGrad(gradients=gradient, features=y)


def _normal(shape, deviation, generator):
    return generator.normal(0.0, deviation, size=shape).astype(np.float32)


def initial_weights(
    sizes: Sequence[int], inputs: int, seed: int, stream: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns [(kernel, bias), ...] of an MLP, the same for a seed on any number of ranks.

    Kernels are N(0, sqrt(2 / (in + out))), biases N(0, sqrt(1 / out)), both standard deviations
    (Naumov et al. 2019, https://arxiv.org/abs/1906.00091, as published in facebookresearch/dlrm).

    Args:
        sizes: output width of each layer.
        inputs: width of the first layer's input.
        seed: the run's seed.
        stream: a number that tells this MLP's random stream from the others'.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, stream]))
    weights = []
    for outputs in sizes:
        kernel = _normal((inputs, outputs), math.sqrt(2.0 / (inputs + outputs)), generator)
        bias = _normal((outputs,), math.sqrt(1.0 / outputs), generator)
        weights.append((kernel, bias))
        inputs = outputs
    return weights


class _Dense(tf.keras.layers.Dense):
    """Keras' linear layer, with a bias whose gradient is as good in bfloat16 as the kernel's."""

    def call(self, inputs):
        if self.compute_dtype != "bfloat16":
            return super().call(inputs)
        # On CPUs TensorFlow's BiasAddGrad adds up bfloat16 in bfloat16, 8 bits: the sum over a
        # batch stands still once it is 256 times its terms. The gradient of + adds in float32.
        return tf.matmul(inputs, self.kernel) + self.bias


class _FusedLayers(tf.keras.layers.Layer):
    """Applies dense layers, which it does not own, by the native op."""

    if TYPE_CHECKING:  # The stubs of Keras know layers of one input.
        __call__: Any

    def __init__(self, last_relu):
        # A float32 layer, so that it reads float32 kernels: as bfloat16, which Keras would make of
        # them in a mixed policy, they would have bfloat16 gradients.
        super().__init__(dtype="float32", autocast=False)
        self._last_relu = last_relu

    def call(self, inputs, layers, for_inference):
        function = mlp_for_inference if for_inference else mlp
        kernels = [tf.convert_to_tensor(layer.kernel) for layer in layers]
        biases = [tf.convert_to_tensor(layer.bias) for layer in layers]
        return function(inputs, kernels, biases, last_relu=self._last_relu)


class MLP(tf.keras.layers.Layer):
    """Dense layers with ReLU between them: [B, inputs] -> [B, sizes[-1]].

    Args:
        sizes: output width of each layer.
        inputs: width of the input.
        seed, stream: see `initial_weights`.
        last_relu: False leaves the last layer linear.
        fused: compute all layers by the project's op (`ops.mlp`, CPUs, float32 and bfloat16);
            otherwise by TensorFlow's. The variables are the same.
    """

    if TYPE_CHECKING:  # As above.
        __call__: Any

    def __init__(
        self,
        sizes: Sequence[int],
        inputs: int,
        *,
        seed: int,
        stream: int,
        last_relu: bool = True,
        fused: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if not sizes or any(size < 1 for size in (*sizes, inputs)):
            raise ValueError(f"MLP widths must be 1 or more, got inputs {inputs}, layers {sizes}")
        self.inputs = inputs
        self.sizes = tuple(sizes)
        weights = initial_weights(sizes, inputs, seed, stream)
        self.dense_layers = []
        for index, (kernel, bias) in enumerate(weights):
            layer = _Dense(
                sizes[index],
                kernel_initializer=tf.keras.initializers.Constant(kernel),
                bias_initializer=tf.keras.initializers.Constant(bias),
                dtype=self._dtype_policy,
                name=f"dense_{index}",
            )
            layer.build((None, kernel.shape[0]))
            self.dense_layers.append(layer)
        self._last_relu = last_relu
        self._fused = _FusedLayers(last_relu) if fused else None
        self.built = True

    def call(self, inputs: tf.Tensor, for_inference: bool = False) -> tf.Tensor:
        """Applies the layers to [B, inputs]; with `for_inference` no gradient can be taken."""
        if self._fused is not None:
            return self._fused(inputs, self.dense_layers, for_inference)
        activation = relu_for_inference if for_inference else relu
        for index, layer in enumerate(self.dense_layers):
            inputs = layer(inputs)
            if self._last_relu or index < len(self.dense_layers) - 1:
                inputs = activation(inputs)
        return inputs
