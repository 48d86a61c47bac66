"""Python wrappers of `Dlrm>DenseUpdate` and `Dlrm>RecordLoss`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ops import loader

#: The most variables, and the most tensors of gradients, of one call of `dense_update`.
MOST = 64
#: {optimizer: number of states of each variable}
STATES = {"sgd": 0, "adagrad": 1, "adam": 2}
#: {optimizer: its hyper-parameters}
HYPERPARAMETERS = {"sgd": (), "adagrad": ("epsilon",), "adam": ("beta1", "beta2", "epsilon")}


def dense_update(
    variables: Sequence[tf.Variable],
    states: Sequence[tf.Variable],
    iteration: tf.Variable,
    gradients: Sequence[Any],
    learning_rate: Any,
    loss_scale: Any,
    finite: Any,
    optimizer: str,
    hyperparameters: Sequence[float],
    name: str | None = None,
) -> tf.Tensor:
    """Updates all variables in place, in two kernels, like the optimizers of `training.optimizers`.

    The gradients of the variables, in order and without gaps, are the concatenation of the
    flattened tensors `gradients`, divided by `loss_scale`. What follows them is ignored.

    SGD and Adagrad equal the optimizers on a CPU bit for bit, Adam within rounding.

    Args:
        variables: 1 to `MOST` float32 variables.
        states: float32 variables with the sizes of the variables, those of each variable together:
            none for "sgd", the sum of squares for "adagrad", m and v for "adam". So the list is
            `DenseOptimizer.variables[1:]`.
        iteration: int64 scalar, number of updates so far; an update adds 1.
        gradients: 1 to `MOST` float32 tensors with at least the elements of all variables.
        learning_rate: [] float32.
        loss_scale: [] float32.
        finite: [] bool; False changes neither variables nor states nor `iteration`, whatever the
            gradients are. None: always update.
        optimizer: "sgd", "adagrad" or "adam".
        hyperparameters: values of its `HYPERPARAMETERS`.
        name: of the op.

    Returns:
        [] bool, whether all variables are finite afterwards; computed without `finite`, too.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        TypeError: a variable or a tensor does not have its type.
        ValueError: the optimizer is unknown, or a number of variables, states, tensors or
            hyper-parameters is wrong.
        tf.errors.InvalidArgumentError: a size is wrong, a variable occurs twice, or there is no
            GPU.
        tf.errors.FailedPreconditionError: a variable is not initialised.
    """
    if optimizer not in STATES:
        raise ValueError(
            f"dense_update: optimizer: expected one of {', '.join(STATES)}; found {optimizer!r}"
        )
    for what, given in (("variables", variables), ("gradients", gradients)):
        if not 1 <= len(given) <= MOST:
            raise ValueError(f"dense_update: expected 1 to {MOST} {what}, found {len(given)}")
    expected = STATES[optimizer] * len(variables)
    if len(states) != expected:
        raise ValueError(
            f"dense_update: {optimizer} of {len(variables)} variables: expected {expected} states, "
            f"found {len(states)}"
        )
    names = HYPERPARAMETERS[optimizer]
    if len(hyperparameters) != len(names):
        raise ValueError(
            f"dense_update: {optimizer}: expected {len(names)} hyper-parameters "
            f"({', '.join(names) or 'none'}), found {len(hyperparameters)}"
        )
    return loader.load().dlrm_dense_update(
        variables=[_handle("dense_update: variable", v, tf.float32) for v in variables],
        states=[_handle("dense_update: state", state, tf.float32) for state in states],
        iteration=_handle("dense_update: iteration", iteration, tf.int64),
        gradients=gradients,
        learning_rate=learning_rate,
        loss_scale=loss_scale,
        finite=True if finite is None else finite,
        optimizer=optimizer,
        hyperparameters=list(hyperparameters),
        name=name,
    )


def record_loss(
    total: tf.Variable,
    last: tf.Variable,
    steps: tf.Variable,
    loss: Any,
    finite: Any,
    weights_finite: Any,
    skips: bool,
    name: str | None = None,
) -> tf.Operation | None:
    """Adds the loss of a step to the record of `training.dense_phases.LossRecord`, in one kernel.

    A loss after which the weights are not finite is recorded as NaN: a kernel may have turned the
    NaN that caused it into 0 before it reached the loss.

    Args:
        total: float64 scalar, the sum of the losses.
        last: float32 scalar, the last loss. Without `skips` it keeps the first one that is not
            finite.
        steps: int64 scalar, number of losses in the sum.
        loss: [] float32.
        finite: [] bool, whether the step was applied; with `skips`, the loss of a step that was not
            is stored in `last` only. None: it was.
        weights_finite: [] bool, result of `dense_update`.
        skips: whether steps can be skipped.
        name: of the op.

    Returns:
        The op in a graph, None in eager execution.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        TypeError: a variable or a tensor does not have its type.
        tf.errors.InvalidArgumentError: a variable or tensor is not a scalar, or there is no GPU.
        tf.errors.FailedPreconditionError: a variable is not initialised.
    """
    return loader.load().dlrm_record_loss(
        sum=_handle("record_loss: total", total, tf.float64),
        last=_handle("record_loss: last", last, tf.float32),
        steps=_handle("record_loss: steps", steps, tf.int64),
        loss=loss,
        finite=True if finite is None else finite,
        weights_finite=weights_finite,
        skips=skips,
        name=name,
    )


def _handle(what: str, variable: tf.Variable, dtype: tf.DType) -> tf.Tensor:
    handle = getattr(variable, "handle", None)
    if handle is None or variable.dtype != dtype:
        raise TypeError(f"{what}: expected a tf.Variable of {dtype.name}, found {variable!r}")
    return handle
