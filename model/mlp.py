"""Multi-layer perceptrons with DLRM's initial weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ops.mlp import MlpActivations, mlp, mlp_backward, mlp_forward

# The slope of `relu` below zero: its results are far below rounding errors. In float16 it is 0.
RELU_SLOPE = 2.0**-100


def relu_for_inference(x: tf.Tensor) -> tf.Tensor:
    """`relu` without its gradient function, which a SavedModel would also contain."""
    return tf.nn.leaky_relu(x, alpha=RELU_SLOPE)


@tf.custom_gradient
def relu(x: tf.Tensor) -> Any:  # a tensor; the decorator removes the gradient
    """ReLU that keeps NaN and infinity in every library.

    With oneDNN, TensorFlow fuses `tf.nn.relu` into the matrix product, and the fused op returns 0
    for NaN: a diverged model would have finite losses. With a tiny slope below zero, oneDNN
    multiplies values that are not positive by the slope, and slope * NaN is NaN, slope * -inf is
    -inf (float16: NaN). It is still fused.

    Args:
        x: a float tensor of any shape.

    Returns:
        x where x > 0, otherwise `RELU_SLOPE` * x: -0.0 or negligibly small for finite x. The
        gradient is ReLU's: exactly 0 unless x > 0.
    """
    y = relu_for_inference(x)
    return y, lambda gradient: tf.raw_ops.ReluGrad(gradients=gradient, features=y)


def _normal(shape, deviation, generator):
    return generator.normal(0.0, deviation, size=shape).astype(np.float32)


def initial_weights(
    sizes: Sequence[int], inputs: int, seed: int, stream: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the initial [(kernel, bias), ...] of an MLP, which depend on the seed only.

    Kernels are N(0, sqrt(2 / (in + out))), biases N(0, sqrt(1 / out)), both standard deviations
    (Naumov et al. 2019, https://arxiv.org/abs/1906.00091, as published in facebookresearch/dlrm).

    Args:
        sizes: output width of each layer.
        inputs: width of the first layer's input.
        seed: the run's seed.
        stream: the number of this MLP's random stream.
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
        kernel, bias: the variables.
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
            # On CPUs TensorFlow's BiasAddGrad accumulates bfloat16 in bfloat16 (8 bits): the sum
            # stops growing at 256 times its terms. The gradient of + accumulates in float32.
            return outputs + bias


class MLP(tf.Module):
    """Dense layers with ReLU between them: [B, inputs] -> [B, sizes[-1]].

    Variables are float32; arithmetic is in the dtype of the inputs.

    Args:
        sizes: output width of each layer.
        inputs: width of the input.
        seed, stream: see `initial_weights`.
        last_relu: False leaves the last layer linear.
        fused: compute all layers with the project's op (`ops.mlp`; float16 on GPUs only) instead
            of TensorFlow's. The variables are the same.
        tf32: with `fused`, let GPUs round the operands of float32 products to TF32.
        name: of the module and of its scope in graphs.

    Attributes:
        dense_layers: one `Dense` per layer, also if fused.
        fused: whether the project's op computes the layers.

    Raises:
        ValueError: there is no layer, or a width is below 1.
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
        tf32: bool = True,
        name: str = "mlp",
    ) -> None:
        super().__init__(name=name)
        if not sizes or any(size < 1 for size in (*sizes, inputs)):
            raise ValueError(
                f"MLP: expected widths of at least 1, found {inputs} and {list(sizes)}"
            )
        self.inputs = inputs
        self.sizes = tuple(sizes)
        self.dense_layers = [
            Dense(kernel, bias, name=f"dense_{index}")
            for index, (kernel, bias) in enumerate(initial_weights(sizes, inputs, seed, stream))
        ]
        self._last_relu = last_relu
        self.fused = fused
        self._tf32 = tf32

    @property
    def variables(self) -> tuple[tf.Variable, ...]:
        """Kernel and bias of each layer, in checkpoint order."""
        return tuple(v for layer in self.dense_layers for v in (layer.kernel, layer.bias))

    @property
    def trainable_variables(self) -> tuple[tf.Variable, ...]:
        """All variables."""
        return self.variables

    def __call__(self, inputs: tf.Tensor, for_inference: bool = False) -> tf.Tensor:
        """Applies the layers.

        Args:
            inputs: [B, inputs] float32, bfloat16 or float16.
            for_inference: no gradient can be taken, and nothing is stored for it.

        Returns:
            [B, sizes[-1]] in the dtype of the inputs.
        """
        with tf.name_scope(self.name):
            if self.fused:
                return self._apply_fused(inputs, for_inference)
            activation = relu_for_inference if for_inference else relu
            for index, layer in enumerate(self.dense_layers):
                inputs = layer(inputs)
                if self._last_relu or index < len(self.dense_layers) - 1:
                    inputs = activation(inputs)
            return inputs

    def _apply_fused(self, inputs, for_inference):
        kernels, biases = self._weights(len(self.dense_layers))
        return mlp(
            inputs, kernels, biases, self._last_relu, for_inference=for_inference, tf32=self._tf32
        )

    def _weights(self, layers):
        # Kernels stay float32: 16-bit kernels would have 16-bit gradients.
        chosen = self.dense_layers[:layers]
        kernels = [tf.convert_to_tensor(layer.kernel) for layer in chosen]
        return kernels, [tf.convert_to_tensor(layer.bias) for layer in chosen]

    def _relu_follows(self, layers):
        return self._last_relu or layers < len(self.dense_layers)

    def forward_for_training(self, inputs: tf.Tensor, layers: int | None = None) -> MlpActivations:
        """Applies the first layers with the fused op; `backward` then needs no tape.

        Args:
            inputs: as in `__call__`.
            layers: how many layers to apply, with their ReLUs; None: all. 0 returns the inputs as
                the outputs.

        Returns:
            The activations; `y` are the outputs.

        Raises:
            ValueError: the MLP is not `fused`, or has fewer layers.
        """
        layers = self._check_layers(layers)
        if layers == 0:
            return MlpActivations(inputs, inputs, [], None)
        with tf.name_scope(self.name):
            kernels, biases = self._weights(layers)
            return mlp_forward(inputs, kernels, biases, self._relu_follows(layers), self._tf32)

    def backward(
        self,
        gradient: tf.Tensor,
        activations: MlpActivations,
        layers: int | None = None,
        *,
        before_relu: bool = False,
        input_gradient: bool = True,
    ) -> tuple[tf.Tensor | None, list[tf.Tensor]]:
        """Returns the gradients of `forward_for_training`, of the inputs and of the weights.

        Args:
            gradient: the gradient of the outputs `y`, of their shape and type.
            activations: the result of `forward_for_training`.
            layers: as in that call.
            before_relu: `gradient` is that of the input of the ReLU which returned `y`.
            input_gradient: False leaves out the gradient of the inputs.

        Returns:
            (gradient of the inputs or None, [gradient of kernel 0, of bias 0, of kernel 1, ...],
            float32, in the order of `variables`).

        Raises:
            ValueError: the MLP is not `fused`, or has fewer layers.
        """
        layers = self._check_layers(layers)
        if layers == 0:
            return (gradient if input_gradient else None), []
        with tf.name_scope(self.name):
            kernels, _ = self._weights(layers)
            found = mlp_backward(
                gradient, activations, kernels, self._relu_follows(layers) and not before_relu,
                self._tf32, input_gradient=input_gradient,
            )  # fmt: skip
        return found.x, [g for pair in zip(found.kernels, found.biases) for g in pair]

    def _check_layers(self, layers):
        most = len(self.dense_layers)
        if not self.fused:
            raise ValueError(f"MLP {self.name}: gradients without a tape need fused=True")
        if layers is not None and not 0 <= layers <= most:
            raise ValueError(f"MLP {self.name}: expected at most {most} layers, found {layers}")
        return most if layers is None else layers
