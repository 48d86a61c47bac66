"""The MLP's forward pass and gradients against NumPy in float64, in each precision."""

import numpy as np
import pytest
import tensorflow as tf

from model.mlp import MLP
from ops import loader
from tests.support.reference import distance_from_kinks, mlp_backward, mlp_forward

BATCH, INPUTS, SIZES = 2048, 12, (32, 16, 1)


@pytest.mark.parametrize(
    ("layers", "dtype", "tolerance"),
    [
        (layers, dtype, tolerance)
        for layers in ("tensorflow", "xla", "fused")
        for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 0.08), ("float16", 0.03))
        if (layers, dtype) != ("fused", "float16")  # which the op does not have
    ],
)
def test_outputs_and_gradients_match_float64(dtype, tolerance, layers, seed, rng):
    fused, xla = layers == "fused", layers == "xla"
    if fused and not loader.is_built("mlp"):
        pytest.skip("the library of the MLP ops is not built: it needs oneDNN")
    mlp = MLP(SIZES, INPUTS, seed=seed, stream=1, last_relu=False, fused=fused)
    layers = [(layer.kernel.numpy().astype(float), layer.bias.numpy().astype(float))
              for layer in mlp.dense_layers]  # fmt: skip
    inputs = rng.normal(size=(2 * BATCH, INPUTS)).astype(np.float32)
    distance = distance_from_kinks(inputs.astype(float), layers, last_linear=True)
    inputs = inputs[np.argsort(-distance)[:BATCH]]
    # Like the gradients of a mean loss: small, mostly of one sign.
    upstream = (rng.normal(0.5, 0.5, (BATCH, 1)) / 16).astype(np.float32)

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
