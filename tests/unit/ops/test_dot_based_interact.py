"""The drop-in package: import path, signature, layout and gradients of the original."""

import numpy as np
import pytest
import tensorflow as tf

from tensorflow_dot_based_interact.python.ops import dot_based_interact_ops
from tests.gpu.reference import interaction, interaction_gradient


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
    expected, _ = interaction(features)
    expected[:, :128] = bottom
    pair_weights = np.where(np.arange(480) < 128, 0, weights)
    expected_gradient, _ = interaction_gradient(features, pair_weights)
    assert y.dtype == dtype and y.shape == (5, 480)
    np.testing.assert_array_equal(tf.cast(y, tf.float64).numpy(), expected)
    np.testing.assert_array_equal(tf.cast(gradients[0], tf.float64).numpy(), expected_gradient)
    np.testing.assert_array_equal(tf.cast(gradients[1], tf.float64).numpy(), weights[:, :128])


def test_dot_based_interact_refuses_a_bottom_output_of_another_width():
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="48"):
        dot_based_interact_ops.dot_based_interact(tf.ones([3, 5, 16]), tf.ones([3, 48]))
