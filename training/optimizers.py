"""The optimizers of the dense part, by name. Importing this module imports no TensorFlow.

Formulas, hyper-parameters and rounding are those of Keras' optimizers of the same names with
float32 variables, so a run does not depend on which Keras TensorFlow comes with.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import tensorflow as tf


class DenseOptimizer(abc.ABC):
    """Updates float32 variables in place, from gradients and a learning rate that are tensors.

    A subclass names the states that it keeps of each variable, which start at 0, and gives
    `_update`; a line in `OPTIMIZERS` makes it a value of --optimizer.

    Args:
        variables: what it updates; their names become part of its states' names.
    """

    #: What is kept of each variable: a float32 variable of its shape each.
    states: ClassVar[tuple[str, ...]] = ()

    def __init__(self, variables: Sequence[tf.Variable]) -> None:
        import tensorflow as tf

        def zeros(variable, state):
            name = f"{state}_{variable.name.split(':')[0]}"
            return tf.Variable(tf.zeros(variable.shape), trainable=False, name=name)

        self._iteration = tf.Variable(tf.zeros([], tf.int64), trainable=False, name="iteration")
        self._updated = [(v, [zeros(v, state) for state in self.states]) for v in variables]

    @property
    def variables(self) -> list[tf.Variable]:
        """What a checkpoint keeps, in its order: the number of updates, each variable's states."""
        return [self._iteration, *(state for _, states in self._updated for state in states)]

    def apply(self, gradients: Sequence[tf.Tensor], learning_rate: tf.Tensor) -> None:
        """Updates every variable once. Makes no variable, so it can be part of any `tf.function`.

        Args:
            gradients: of the variables, in their order, with their shapes, float32.
            learning_rate: scalar float32.

        Raises:
            ValueError: there are more or fewer gradients than variables.
        """
        if len(gradients) != len(self._updated):
            raise ValueError(f"expected {len(self._updated)} gradients, got {len(gradients)}")
        factors = self._factors(self._iteration.assign_add(1), learning_rate)
        for gradient, (variable, states) in zip(gradients, self._updated):
            self._update(variable, states, gradient, factors)

    def _factors(self, iteration: tf.Tensor, learning_rate: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns the scalars that all variables share.

        Args:
            iteration: number of this update, from 1, scalar int64.
            learning_rate: scalar float32.
        """
        return (learning_rate,)

    @abc.abstractmethod
    def _update(
        self,
        variable: tf.Variable,
        states: list[tf.Variable],
        gradient: tf.Tensor,
        factors: tuple[tf.Tensor, ...],
    ) -> None:
        """Updates one variable and its states in place; `factors` as `_factors` returns them."""


class SGD(DenseOptimizer):
    """w -= rate g, one op of TensorFlow's for each variable."""

    def _update(self, variable, states, gradient, factors):
        import tensorflow as tf

        (rate,) = factors
        tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=gradient)


class Adagrad(DenseOptimizer):
    """a += g^2, w -= rate g / sqrt(a + 1e-8) (Duchi et al. 2011).

    The sums start at 0, like PyTorch's and those of the tables' Adagrad; TensorFlow's start at 0.1.
    Epsilon is under the root, as in Keras, where it keeps the first steps of tiny gradients small:
    TensorFlow's ResourceApplyAdagradV2 adds it to the root, so these are plain ops.
    """

    states = ("accumulator",)

    def _update(self, variable, states, gradient, factors):
        import tensorflow as tf

        (accumulator,), (rate,) = states, factors
        accumulated = accumulator.assign_add(gradient * gradient)
        variable.assign_sub(rate * gradient / tf.sqrt(accumulated + 1e-8))


class Adam(DenseOptimizer):
    """Adam in the order of Kingma and Ba 2015, end of section 2, with Keras' hyper-parameters.

    m += (g - m) (1 - b1), v += (g^2 - v) (1 - b2),
    w -= rate sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + 1e-7), with b1 = 0.9, b2 = 0.999; one op of
    TensorFlow's for each variable. It takes b2 as a float32 and subtracts it from 1 in float32,
    where Keras rounds the difference: steps differ by 7 parts in a million.
    """

    states = ("m", "v")

    def _factors(self, iteration, learning_rate):
        import tensorflow as tf

        step = tf.cast(iteration, tf.float32)
        return learning_rate, tf.pow(0.9, step), tf.pow(0.999, step)

    def _update(self, variable, states, gradient, factors):
        import tensorflow as tf

        (m, v), (rate, beta1_power, beta2_power) = states, factors
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=m.handle, v=v.handle, beta1_power=beta1_power,
            beta2_power=beta2_power, lr=rate, beta1=0.9, beta2=0.999, epsilon=1e-7, grad=gradient,
        )  # fmt: skip


#: {value of --optimizer: the optimizer}.
OPTIMIZERS: dict[str, type[DenseOptimizer]] = {"sgd": SGD, "adagrad": Adagrad, "adam": Adam}
