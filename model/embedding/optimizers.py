"""The row optimizers: their states, hyper-parameters and formulas. No TensorFlow is imported.

An optimizer is an entry of `OPTIMIZERS` here, a rule of the same name in
`ops/embedding/row_optimizers.h`, and its reference in `tests/support/row_optimizers.py`. Memory
budgets, checkpoints, flags, the planner and both backends read this registry. docs/embedding.md
lists the steps to add one.

Shapes: n rows that a batch touches, D columns.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from storage.errors import ReportedError


@dataclasses.dataclass(frozen=True)
class RowState:
    """One state of a row optimizer.

    Attributes:
        name: its name in checkpoints and messages, for example "accumulator".
        per: "column": one value for each column of a row, [rows, D]; "row": one value for each
            row, [rows].
        initial: the initial value, or the name of the hyper-parameter that holds it.
    """

    name: str
    per: str = "column"
    initial: float | str = 0.0

    def bytes_per_row(self, width: int) -> int:
        """Returns the bytes of this state for one row of `width` columns."""
        return 4 * (width if self.per == "column" else 1)  # float32, whatever the rows' type

    def shape(self, rows: int, width: int) -> list[int]:
        """Returns the shape of the state's variable for [rows, width] rows."""
        return [rows, width] if self.per == "column" else [rows]


@dataclasses.dataclass(frozen=True)
class RowOptimizer:
    """A row optimizer with its hyper-parameters.

    Attributes:
        name: its name in flags and checkpoints, and of the kernels' rule.
        description: its name in messages.
        states: in the order of the rule, states with one value per column first.
        hyperparameters: {name: value}; first those of the rule, in its order, then those that are
            initial values of states.
        positive: hyper-parameters that must be above 0; the others may be 0.
        below_one: hyper-parameters that must be below 1.
        formula: the update in TensorFlow's ops, after the gradients of each row are summed:
            (tensorflow, rows, sums, states, learning_rate, values of the rule) -> (the decrement
            of the rows [n, D], new states). `rows` is a function without arguments that returns the
            rows [n, D]; `sums` is [n, D], each of `states` [n, D] or [n, 1]. None: plain gradient
            descent, gradient by gradient.
        rate_factor: a factor on the learning rate that depends on the number t of the update,
            starting at 1: (tensorflow, t as a float32 scalar, values of the rule) -> scalar. The
            training step multiplies the rate by it. None: no factor.
    """

    name: str
    description: str
    states: tuple[RowState, ...] = ()
    hyperparameters: Mapping[str, float] = dataclasses.field(default_factory=dict)
    positive: tuple[str, ...] = ()
    below_one: tuple[str, ...] = ()
    formula: Callable[..., tuple[Any, list[Any]]] | None = None
    rate_factor: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        kinds = [state.per for state in self.states]
        if kinds != sorted(kinds):  # "column" before "row"
            raise ValueError(f"{self.name}: states per column must come before states per row")

    @property
    def per_row_states(self) -> tuple[str, ...]:
        """Names of the states with one value per row, which cannot be split by column."""
        return tuple(state.name for state in self.states if state.per == "row")

    @property
    def rule_values(self) -> tuple[float, ...]:
        """Values of the rule's hyper-parameters, in the rule's order."""
        initial = {state.initial for state in self.states}
        return tuple(v for name, v in self.hyperparameters.items() if name not in initial)

    def bytes_per_row(self, dimension: int) -> int:
        """Returns the bytes of all states for one row of `dimension` columns."""
        return sum(state.bytes_per_row(dimension) for state in self.states)

    def initial_value(self, state: RowState) -> float:
        """Returns the initial value of a state."""
        if isinstance(state.initial, str):
            return self.hyperparameters[state.initial]
        return state.initial

    def with_options(self, options: Mapping[str, float]) -> RowOptimizer:
        """Returns this optimizer with other values of some hyper-parameters.

        Args:
            options: {name of a hyper-parameter: value}.

        Raises:
            OptimizerError: a name is unknown or a value out of range (`with_defaults`).
        """
        values = with_defaults(
            self.name, self.hyperparameters, options, self.positive, self.below_one
        )
        return dataclasses.replace(self, hyperparameters=values)


class OptimizerError(ReportedError, ValueError):
    """An optimizer is unknown, or one of its options is unknown or out of range."""


def with_defaults(
    optimizer: str,
    defaults: Mapping[str, float],
    options: Mapping[str, float],
    positive: Sequence[str] = (),
    below_one: Sequence[str] = (),
) -> dict[str, float]:
    """Returns all hyper-parameters of an optimizer: the given options, else the defaults.

    Args:
        optimizer: its name in messages.
        defaults: {name of a hyper-parameter: default}.
        options: {name of a hyper-parameter: value}.
        positive: hyper-parameters that must be above 0; the others may be 0.
        below_one: hyper-parameters that must be below 1.

    Raises:
        OptimizerError: a name is unknown, or a value is not a float32 number of 0 or more
            (above 0 for `positive`, below 1 for `below_one`).
    """
    for name, value in options.items():
        if name not in defaults:
            known = ", ".join(defaults) or "no option"
            raise OptimizerError(
                f"options of {optimizer}: expected {known}, found {name!r}", found=name
            )
        # The kernels take float32: a tiny number becomes 0, a huge one infinite.
        single = _to_float32(value)
        expected = "above 0" if name in positive else "of at least 0"
        valid = math.isfinite(single) and (single > 0 if name in positive else single >= 0)
        if name in below_one:
            expected, valid = f"{expected} and below 1", valid and single < 1
        if not valid:
            raise OptimizerError(
                f"option {name} of {optimizer}: expected a number {expected}, found {value}",
                found=value,
            )
    return {**defaults, **options}


def _to_float32(value: float) -> float:
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.inf


def _adagrad(tf, rows, sums, states, learning_rate, values):
    """Duchi, Hazan and Singer, JMLR 12 (2011)."""
    (accumulator,), (epsilon,) = states, values
    accumulator += tf.square(sums)
    return learning_rate * sums / (tf.sqrt(accumulator) + epsilon), [accumulator]


def _rowwise_adagrad(tf, rows, sums, states, learning_rate, values):
    """Adagrad with the mean of the squares over a row."""
    (accumulator,), (epsilon,) = states, values
    accumulator += tf.reduce_mean(tf.square(sums), axis=1, keepdims=True)
    return learning_rate * sums / (tf.sqrt(accumulator) + epsilon), [accumulator]


def _ftrl(tf, rows, sums, states, learning_rate, values):
    """FTRL-Proximal with the learning rate as a factor on gradients; see row_optimizers.h."""
    (accumulator, linear), (l1, l2, beta), rows = states, values, rows()
    total = accumulator + tf.square(sums)
    root = tf.sqrt(total)
    linear += learning_rate * sums - (root - tf.sqrt(accumulator)) * rows
    weights = (tf.clip_by_value(linear, -l1, l1) - linear) / (root + beta + 2.0 * l2)
    return tf.where(total != 0.0, rows - weights, 0.0), [total, linear]


def _adam(tf, rows, sums, states, learning_rate, values):
    """Kingma and Ba 2015, for the rows that occur; see row_optimizers.h."""
    (m, v), (beta1, beta2, epsilon) = states, values
    m += (sums - m) * (tf.constant(1.0) - beta1)
    v += (tf.square(sums) - v) * (tf.constant(1.0) - beta2)
    return learning_rate * m / (tf.sqrt(v) + epsilon), [m, v]


def _adam_rate_factor(tf, updates, values):
    """sqrt(1 - beta2^t) / (1 - beta1^t), by expm1: the differences keep all their digits."""
    corrections = [
        -tf.math.expm1(updates * (math.log(beta) if beta > 0 else -math.inf)) for beta in values[:2]
    ]
    return tf.sqrt(corrections[1]) / corrections[0]


_ADAGRAD = {"epsilon": 1e-8, "initial_accumulator": 0.0}

OPTIMIZERS: dict[str, RowOptimizer] = {
    optimizer.name: optimizer
    for optimizer in (
        RowOptimizer("sgd", "SGD"),
        RowOptimizer(
            "adagrad",
            "Adagrad",
            (RowState("accumulator", initial="initial_accumulator"),),
            _ADAGRAD,
            positive=("epsilon",),
            formula=_adagrad,
        ),
        RowOptimizer(
            "rowwise_adagrad",
            "row-wise Adagrad",
            (RowState("accumulator", per="row", initial="initial_accumulator"),),
            _ADAGRAD,
            positive=("epsilon",),
            formula=_rowwise_adagrad,
        ),
        # l1 and l2 are TensorFlow's and McMahan's strengths times the base learning rate, so that
        # a learning rate schedule does not change their effect.
        RowOptimizer(
            "ftrl",
            "FTRL-Proximal",
            (RowState("accumulator", initial="initial_accumulator"), RowState("linear")),
            {"l1": 0.0, "l2": 0.0, "beta": 0.0, "initial_accumulator": 0.0},
            formula=_ftrl,
        ),
        # With TensorFlow Addons' defaults of LazyAdam.
        RowOptimizer(
            "adam",
            "Adam",
            (RowState("m"), RowState("v")),
            {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7},
            positive=("epsilon",),
            below_one=("beta1", "beta2"),
            formula=_adam,
            rate_factor=_adam_rate_factor,
        ),
    )
}


def find(optimizer: str | RowOptimizer) -> RowOptimizer:
    """Returns the optimizer of a name; a `RowOptimizer` is returned unchanged.

    Raises:
        OptimizerError: no optimizer has that name.
    """
    if isinstance(optimizer, RowOptimizer):
        return optimizer
    if optimizer not in OPTIMIZERS:
        raise OptimizerError(
            f"optimizer: expected one of {', '.join(OPTIMIZERS)}, found {optimizer!r}",
            found=optimizer,
        )
    return OPTIMIZERS[optimizer]


def divisible_optimizers() -> list[str]:
    """Returns the names of the optimizers whose states can be split by column."""
    return [name for name, optimizer in OPTIMIZERS.items() if not optimizer.per_row_states]


def parse_options(text: str) -> dict[str, float]:
    """Parses options such as "l1=0.001,beta=1".

    Raises:
        OptimizerError: the text is not a list of name=number, or a name occurs twice.
    """
    options: dict[str, float] = {}
    for part in text.split(","):
        name, separator, number = (word.strip() for word in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            separator = ""
        if not (name and separator):
            raise OptimizerError(
                f"expected name=number,name=number,..., found {part.strip()!r}", found=part.strip()
            )
        if name in options:
            raise OptimizerError(f"option {name} occurs twice", found=name)
        options[name] = value
    return options
