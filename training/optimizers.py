"""The optimizers of the MLPs. Importing this module does not import TensorFlow.

No Keras is used: results do not depend on the installed version.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from model.embedding.optimizers import with_defaults

if TYPE_CHECKING:
    import tensorflow as tf


class DenseOptimizer(abc.ABC):
    """Updates float32 variables in place, given gradients and a learning rate as tensors.

    A subclass lists its hyper-parameters and the states that it keeps for each variable, and
    implements `_update`. An entry in `OPTIMIZERS` makes it a value of --optimizer. `native_rule` is
    the name of the same update in `ops.dense_update`.

    Args:
        variables: the variables to update; names of states contain their names.
        options: {name of a hyper-parameter: value}; the others have their defaults.

    Raises:
        OptimizerError: an option is unknown or out of range.
    """

    #: Names of the states: for each variable, one float32 variable of the same shape per name.
    states: ClassVar[tuple[str, ...]] = ()
    #: {state: hyper-parameter with its initial value}; other states start at 0.
    initial: ClassVar[Mapping[str, str]] = {}
    #: {name: default}: first those of `native_rule`, in its order, then initial values of states.
    hyperparameters: ClassVar[Mapping[str, float]] = {}
    #: Hyper-parameters that must be above 0; the others may be 0.
    positive: ClassVar[tuple[str, ...]] = ()
    #: Hyper-parameters that must be below 1.
    below_one: ClassVar[tuple[str, ...]] = ()
    #: Its name in `ops.dense_update`.
    native_rule: ClassVar[str]

    def __init__(
        self, variables: Sequence[tf.Variable], options: Mapping[str, float] | None = None
    ) -> None:
        import tensorflow as tf

        self._values = values = self.values_of(options or {})

        def new_state(variable, state):
            name = f"{state}_{variable.name.split(':')[0]}"
            value = values[self.initial[state]] if state in self.initial else 0.0
            return tf.Variable(tf.fill(variable.shape, value), trainable=False, name=name)

        self._iteration = tf.Variable(tf.zeros([], tf.int64), trainable=False, name="iteration")
        self._updated = [(v, [new_state(v, state) for state in self.states]) for v in variables]

    @classmethod
    def values_of(cls, options: Mapping[str, float]) -> dict[str, float]:
        """Returns {name: value} of all hyper-parameters.

        Args:
            options: {name of a hyper-parameter: value}; the others have their defaults.

        Raises:
            OptimizerError: an option is unknown or out of range.
        """
        return with_defaults(
            cls.native_rule, cls.hyperparameters, options, cls.positive, cls.below_one
        )

    @property
    def updates(self) -> tf.Variable:
        """The number of updates so far, int64."""
        return self._iteration

    @property
    def variables(self) -> list[tf.Variable]:
        """The number of updates and the states of each variable, in the order of checkpoints."""
        return [self._iteration, *(state for _, states in self._updated for state in states)]

    def apply(
        self,
        gradients: Sequence[tf.Tensor],
        learning_rate: tf.Tensor,
        finite: tf.Tensor | None = None,
    ) -> None:
        """Updates every variable once. Creates no variables, so any `tf.function` can call it.

        Args:
            gradients: float32 gradients of the variables, in their order and with their shapes.
            learning_rate: scalar float32.
            finite: scalar bool; False leaves all variables and states unchanged, whatever the
                gradients are. A condition would bring it from a GPU to the host in each step.

        Raises:
            ValueError: the number of gradients is not the number of variables.
        """
        import tensorflow as tf

        if len(gradients) != len(self._updated):
            raise ValueError(f"expected {len(self._updated)} gradients, found {len(gradients)}")
        one = tf.constant(1, tf.int64)
        if finite is not None:
            gradients = [tf.where(finite, gradient, 0.0) for gradient in gradients]
            one = tf.where(finite, one, tf.constant(0, tf.int64))
        factors = self._factors(self._iteration.assign_add(one), learning_rate, finite)
        for gradient, (variable, states) in zip(gradients, self._updated):
            self._update(variable, states, gradient, factors)

    def apply_native(
        self,
        gradients: Sequence[tf.Tensor],
        learning_rate: tf.Tensor,
        loss_scale: tf.Tensor,
        finite: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Same as `apply`, for all variables at once with the project's GPU kernel.

        Args:
            gradients: float32 tensors of any shapes; their concatenation begins with the gradients
                of all variables, in order, times `loss_scale`. What follows them is ignored.
            learning_rate: scalar float32.
            loss_scale: scalar float32.
            finite: as for `apply`.

        Returns:
            Whether all variables are finite after the update, a scalar bool.
        """
        from ops.dense_update import dense_update

        variables = [variable for variable, _ in self._updated]
        return dense_update(
            variables, self.variables[1:], self._iteration, gradients, learning_rate, loss_scale,
            finite, self.native_rule, self._rule_values(),
        )  # fmt: skip

    def _rule_values(self) -> list[float]:
        initial = self.initial.values()
        return [value for name, value in self._values.items() if name not in initial]

    def _factors(
        self, iteration: tf.Tensor, learning_rate: tf.Tensor, finite: tf.Tensor | None
    ) -> tuple[tf.Tensor, ...]:
        """Returns the scalars that the updates of all variables share.

        With them, gradients of 0 must change nothing if `finite` is False.

        Args:
            iteration: number of this update, scalar int64, starting at 1.
            learning_rate: scalar float32.
            finite: scalar bool, or None if updates are never skipped.
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
        """Updates one variable and its states in place; `factors` is the result of `_factors`."""


class SGD(DenseOptimizer):
    """w -= rate g, one TensorFlow op per variable."""

    native_rule = "sgd"

    def _update(self, variable, states, gradient, factors):
        import tensorflow as tf

        (rate,) = factors
        tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=gradient)


class Adagrad(DenseOptimizer):
    """a += g^2, w -= rate g / (sqrt(a) + epsilon) (Duchi et al. 2011).

    As in the tables' Adagrad, PyTorch and MLPerf's DLRM-DCNv2: the sums start at 0 by default, and
    epsilon is added to the root. Keras adds it to the sum under the root and starts at 0.1. One
    TensorFlow op per variable.
    """

    states = ("accumulator",)
    initial: ClassVar = {"accumulator": "initial_accumulator"}
    hyperparameters: ClassVar = {"epsilon": 1e-8, "initial_accumulator": 0.0}
    positive = ("epsilon",)
    native_rule = "adagrad"

    def _update(self, variable, states, gradient, factors):
        import tensorflow as tf

        (accumulator,), (rate,) = states, factors
        tf.raw_ops.ResourceApplyAdagradV2(
            var=variable.handle, accum=accumulator.handle, lr=rate,
            epsilon=self._values["epsilon"], grad=gradient,
        )  # fmt: skip


class Adam(DenseOptimizer):
    """Adam in the form at the end of section 2 of Kingma and Ba 2015, with Keras' defaults.

    m += (g - m) (1 - b1), v += (g^2 - v) (1 - b2),
    w -= rate sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon). One TensorFlow op per variable,
    which computes 1 - b2 in float32. Keras rounds the exact difference instead, so with b2 = 0.999
    the steps differ by 7 parts in a million.
    """

    states = ("m", "v")
    hyperparameters: ClassVar = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7}
    positive = ("epsilon",)
    below_one = ("beta1", "beta2")
    native_rule = "adam"

    def _factors(self, iteration, learning_rate, finite):
        import tensorflow as tf

        beta1, beta2 = self._values["beta1"], self._values["beta2"]
        step = tf.cast(iteration, tf.float32)
        powers = tf.pow(beta1, step), tf.pow(beta2, step)
        if finite is None:
            return learning_rate, *powers, beta1, beta2
        # With averages that decay by 1 and a rate of 0, a gradient of 0 changes nothing. Before the
        # first update the powers are 1, and the op would divide by 1 - 1.
        skipped = tf.logical_not(finite)
        powers = tuple((power, 0.0) for power in powers)
        factors = (learning_rate, 0.0), *powers, (beta1, 1.0), (beta2, 1.0)
        return tuple(tf.where(skipped, at_rest, used) for used, at_rest in factors)

    def _update(self, variable, states, gradient, factors):
        import tensorflow as tf

        (m, v), (rate, beta1_power, beta2_power, beta1, beta2) = states, factors
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=m.handle, v=v.handle, beta1_power=beta1_power,
            beta2_power=beta2_power, lr=rate, beta1=beta1, beta2=beta2,
            epsilon=self._values["epsilon"], grad=gradient,
        )  # fmt: skip


#: {value of --optimizer: optimizer}
OPTIMIZERS: dict[str, type[DenseOptimizer]] = {"sgd": SGD, "adagrad": Adagrad, "adam": Adam}
