"""The drop-in package: import path, signature, layout and gradients of the original."""

import numpy as np
import pytest
import tensorflow as tf

from tensorflow_dot_based_interact.python.ops import dot_based_interact_ops


@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.bfloat16], ids=lambda d: d.name)
def test_dot_based_interact_has_the_original_layout_and_gradients(dtype, rng):
    # Small integers: products and sums are exact in every type.
    features = rng.integers(-1, 2, (5, 27, 128)).astype(np.float64)
    bottom = rng.integers(-1, 2, (5, 128)).astype(np.float64)
    weights = rng.integers(-1, 2, (5, 480)).astype(np.float64)
    x, b, w = (tf.cast(a, dtype) for a in (features, bottom, weights))
    with tf.GradientTape() as tape:
        tape.watch([x, b])
        y = dot_based_interact_ops.dot_based_interact(x, b)
    gradients = tape.gradient(y, [x, b], w)
    pairs = [(i, j) for i in range(27) for j in range(i)]
    expected = np.zeros((5, 480))
    expected[:, :128] = bottom
    expected_gradient = np.zeros_like(features)
    for k, (i, j) in enumerate(pairs, start=128):
        expected[:, k] = np.sum(features[:, i] * features[:, j], axis=1)
        expected_gradient[:, i] += weights[:, k : k + 1] * features[:, j]
        expected_gradient[:, j] += weights[:, k : k + 1] * features[:, i]
    assert y.dtype == dtype and y.shape == (5, 480)
    np.testing.assert_array_equal(tf.cast(y, tf.float64).numpy(), expected)
    np.testing.assert_array_equal(tf.cast(gradients[0], tf.float64).numpy(), expected_gradient)
    np.testing.assert_array_equal(tf.cast(gradients[1], tf.float64).numpy(), weights[:, :128])


def test_dot_based_interact_keeps_static_shapes_in_a_function():
    @tf.function(input_signature=[tf.TensorSpec([None, 16]), tf.TensorSpec([None, 4, 16])])
    def model(bottom_mlp_output, embeddings):
        concat_features = tf.concat([bottom_mlp_output[:, tf.newaxis], embeddings], axis=1)
        y = dot_based_interact_ops.dot_based_interact(concat_features, bottom_mlp_output)
        assert y.shape.as_list() == [None, 32]
        return y

    assert model(tf.ones([3, 16]), tf.ones([3, 4, 16])).shape == (3, 32)
    assert model(tf.ones([0, 16]), tf.ones([0, 4, 16])).shape == (0, 32)


def test_dot_based_interact_refuses_a_bottom_output_of_another_width():
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="48"):
        dot_based_interact_ops.dot_based_interact(tf.ones([3, 5, 16]), tf.ones([3, 48]))
