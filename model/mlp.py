"""Multi-layer perceptrons with DLRM's initial weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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


class Dense(tf.Module):
    """A linear layer with float32 variables: [B, in] -> [B, out], computed in the input's dtype.

    Args:
        kernel: [in, out] float32, initial value.
        bias: [out] float32, initial value.

    Attributes:
        kernel, bias: the variables, of these names.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, name: str) -> None:
        super().__init__(name=name)
        self.kernel = tf.Variable(tf.constant(kernel), name="kernel")
        self.bias = tf.Variable(tf.constant(bias), name="bias")

    def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns inputs @ kernel + bias, [B, out] in the dtype of the inputs, [B, in]."""
        with tf.name_scope(self.name):
            kernel, bias = (tf.cast(v, inputs.dtype) for v in (self.kernel, self.bias))
            outputs = tf.matmul(inputs, kernel)
            if inputs.dtype != tf.bfloat16:
                return tf.nn.bias_add(outputs, bias)
            # On CPUs TensorFlow's BiasAddGrad adds up bfloat16 in bfloat16, 8 bits: the sum over a
            # batch stands still once it is 256 times its terms. The gradient of + adds in float32.
            return outputs + bias


class MLP(tf.Module):
    """Dense layers with ReLU between them: [B, inputs] -> [B, sizes[-1]].

    The variables are float32 whatever dtype the inputs have, which is the one it computes in.

    Args:
        sizes: output width of each layer.
        inputs: width of the input.
        seed, stream: see `initial_weights`.
        last_relu: False leaves the last layer linear.
        fused: compute all layers by the project's op (`ops.mlp`, CPUs, float32 and bfloat16);
            otherwise by TensorFlow's. The variables are the same.
        name: of the module and of its scope in graphs.

    Attributes:
        dense_layers: a `Dense` each, whichever way they are computed.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        inputs: int,
        *,
        seed: int,
        stream: int,
        last_relu: bool = True,
        fused: bool = False,
        name: str = "mlp",
    ) -> None:
        super().__init__(name=name)
        if not sizes or any(size < 1 for size in (*sizes, inputs)):
            raise ValueError(f"MLP widths must be 1 or more, got inputs {inputs}, layers {sizes}")
        self.inputs = inputs
        self.sizes = tuple(sizes)
        self.dense_layers = [
            Dense(kernel, bias, name=f"dense_{index}")
            for index, (kernel, bias) in enumerate(initial_weights(sizes, inputs, seed, stream))
        ]
        self._last_relu = last_relu
        self._fused = fused

    @property
    def variables(self) -> tuple[tf.Variable, ...]:
        """Kernel and bias of each layer in turn, in the order in which a checkpoint has them."""
        return tuple(v for layer in self.dense_layers for v in (layer.kernel, layer.bias))

    @property
    def trainable_variables(self) -> tuple[tf.Variable, ...]:
        """All variables."""
        return self.variables

    def __call__(self, inputs: tf.Tensor, for_inference: bool = False) -> tf.Tensor:
        """Applies the layers.

        Args:
            inputs: [B, inputs] float32, bfloat16 or float16 (not `fused`).
            for_inference: no gradient can be taken; nothing is kept for it.

        Returns:
            [B, sizes[-1]] in the dtype of the inputs.
        """
        with tf.name_scope(self.name):
            if self._fused:
                return self._apply_fused(inputs, for_inference)
            activation = relu_for_inference if for_inference else relu
            for index, layer in enumerate(self.dense_layers):
                inputs = layer(inputs)
                if self._last_relu or index < len(self.dense_layers) - 1:
                    inputs = activation(inputs)
            return inputs

    def _apply_fused(self, inputs, for_inference):
        function = mlp_for_inference if for_inference else mlp
        # Float32 kernels in either dtype: as bfloat16 they would have bfloat16 gradients.
        kernels = [tf.convert_to_tensor(layer.kernel) for layer in self.dense_layers]
        biases = [tf.convert_to_tensor(layer.bias) for layer in self.dense_layers]
        return function(inputs, kernels, biases, last_relu=self._last_relu)
