"""The MLP's forward pass and gradients against NumPy in float64, with and without a tape."""

import numpy as np
import pytest
import tensorflow as tf

from model.mlp import MLP
from ops import loader
from tests.support.reference import distance_from_kinks, mlp_backward, mlp_forward

needs_library = pytest.mark.skipif(
    not loader.is_built("mlp"), reason="the library of the MLP ops is not built: it needs oneDNN"
)
BATCH, INPUTS, SIZES = 2048, 12, (32, 16, 1)


@pytest.mark.parametrize(
    ("layers", "dtype", "tolerance"),
    [
        (layers, dtype, tolerance)
        for layers in ("tensorflow", "xla", "fused")
        for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 0.08), ("float16", 0.03))
        if (layers, dtype) != ("fused", "float16")  # the op has no such CPU kernel
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


@needs_library
@pytest.mark.parametrize("last_relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("layers", [None, 3, 2, 1])
def test_gradients_without_a_tape_equal_the_tapes(layers, last_relu, seed, rng):
    mlp = MLP(SIZES, INPUTS, seed=seed, stream=1, last_relu=last_relu, fused=True)
    count = len(SIZES) if layers is None else layers
    # The same layers as an MLP of their own.
    part = MLP(SIZES[:count], INPUTS, seed=seed, stream=1, fused=True,
               last_relu=last_relu or count < len(SIZES))  # fmt: skip
    for ours, theirs in zip(part.variables, mlp.variables):
        ours.assign(theirs)
    x = tf.constant(rng.normal(size=(40, INPUTS)), tf.float32)
    upstream = tf.constant(rng.normal(size=(40, SIZES[count - 1])), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = part(x)
    x_gradient, *expected = tape.gradient(y, [x, *part.variables], upstream)

    activations = mlp.forward_for_training(x, layers)
    np.testing.assert_array_equal(activations.y, y)
    relu = last_relu or count < len(SIZES)
    masked = tf.where(activations.y > 0, upstream, 0.0) if relu else upstream
    for gradient, options in ((upstream, {}), (masked, {"before_relu": True})):
        of_x, found = mlp.backward(gradient, activations, layers, **options)
        np.testing.assert_array_equal(of_x, x_gradient)
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected):
            np.testing.assert_array_equal(ours, theirs)
    of_x, found = mlp.backward(upstream, activations, layers, input_gradient=False)
    assert of_x is None
    for ours, theirs in zip(found, expected):
        np.testing.assert_array_equal(ours, theirs)


def test_no_layers_pass_inputs_and_gradients_on(seed, rng):
    mlp = MLP(SIZES, INPUTS, seed=seed, stream=1, fused=True)
    x, upstream = (tf.constant(rng.normal(size=(4, INPUTS)), tf.float32) for _ in range(2))
    activations = mlp.forward_for_training(x, 0)
    np.testing.assert_array_equal(activations.y, x)
    of_x, found = mlp.backward(upstream, activations, 0)
    np.testing.assert_array_equal(of_x, upstream)
    assert found == []
    assert mlp.backward(upstream, activations, 0, input_gradient=False) == (None, [])


def test_gradients_without_a_tape_are_refused(seed):
    plain, fused = (
        MLP(SIZES, INPUTS, seed=seed, stream=1, fused=fused, name="top") for fused in (False, True)
    )
    with pytest.raises(ValueError, match=r"MLP top: .* fused=True"):
        plain.forward_for_training(tf.zeros([2, INPUTS]))
    for layers in (-1, len(SIZES) + 1):
        with pytest.raises(ValueError, match=f"at most {len(SIZES)} layers, found {layers}"):
            fused.forward_for_training(tf.zeros([2, INPUTS]), layers)
