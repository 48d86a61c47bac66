"""The MLP's forward pass and gradients against NumPy in float64, in every precision."""

import numpy as np
import pytest
import tensorflow as tf

from model.mlp import MLP
from ops import loader
from tests.support.reference import mlp_backward, mlp_forward

BATCH, INPUTS, SIZES = 2048, 12, (32, 16, 1)


@pytest.mark.parametrize("layers", ["tensorflow", "xla", "fused"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.08), ("float16", 0.03)]
)
def test_outputs_and_gradients(dtype, tolerance, layers):
    fused, xla = layers == "fused", layers == "xla"
    if fused and dtype == "float16":
        pytest.skip("the fused MLP has no float16")
    if fused and not loader.is_built("mlp"):
        pytest.skip("the library of the MLP ops is not built: it needs oneDNN")
    generator = np.random.default_rng()
    seed = int(generator.integers(1 << 30))
    mlp = MLP(SIZES, INPUTS, seed=seed, stream=1, last_relu=False, fused=fused)
    layers = [(layer.kernel.numpy().astype(float), layer.bias.numpy().astype(float))
              for layer in mlp.dense_layers]  # fmt: skip
    inputs = generator.normal(size=(BATCH, INPUTS)).astype(np.float32)
    # As a loss that is a mean gives them: small, many, mostly of one sign.
    upstream = (generator.normal(0.5, 0.5, (BATCH, 1)) / 16).astype(np.float32)

    @tf.function(jit_compile=xla)
    def run():
        with tf.GradientTape() as tape:
            outputs = tf.cast(mlp(tf.cast(inputs, dtype)), tf.float32)
        return outputs, tape.gradient(outputs, mlp.trainable_variables, upstream)

    outputs, gradients = run()
    activations = mlp_forward(inputs.astype(float), layers, last_linear=True)
    _, expected = mlp_backward(upstream.astype(float), activations, layers, last_linear=True)

    def close(ours, reference):
        error = np.linalg.norm(ours.numpy() - reference) / np.linalg.norm(reference)
        assert error < tolerance, error

    close(outputs, activations[-1])
    assert len(gradients) == 2 * len(expected)
    for (kernel, bias), ours in zip(expected, zip(gradients[::2], gradients[1::2])):
        close(ours[0], kernel)
        close(ours[1], bias)
