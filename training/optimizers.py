"""The optimizers of the dense part, by name. Importing this module imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf


def _sgd() -> tf.keras.optimizers.Optimizer:
    import tensorflow as tf

    return tf.keras.optimizers.SGD()


def _adagrad() -> tf.keras.optimizers.Optimizer:
    import tensorflow as tf

    # TensorFlow's Adagrad starts its sums at 0.1, PyTorch's and ours at 0. Keras has epsilon under
    # the root, where it keeps the first steps of tiny gradients small.
    return tf.keras.optimizers.Adagrad(initial_accumulator_value=0.0, epsilon=1e-8)


def _adam() -> tf.keras.optimizers.Optimizer:
    import tensorflow as tf

    return tf.keras.optimizers.Adam()


#: {value of --optimizer: function that makes the optimizer}; the step sets its learning rate.
OPTIMIZERS: dict[str, Callable[[], tf.keras.optimizers.Optimizer]] = {
    "sgd": _sgd,
    "adagrad": _adagrad,
    "adam": _adam,
}
