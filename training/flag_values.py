"""Parses settings whose value is structured text. Imports no TensorFlow."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from model.embedding.optimizers import OptimizerError, RowOptimizer, find, parse_options
from training.optimizers import OPTIMIZERS
from training.runtime.errors import UserError

#: TensorFlow's largest float32.
_LARGEST_SCALE = 3.4028234663852886e38


class CheckpointInterval(NamedTuple):
    """The interval between checkpoints in steps or minutes; neither: only at the end of the run."""

    steps: int | None
    minutes: float | None


def read_interaction(interaction: str | None, ablation: str) -> tuple[str, str]:
    """Returns (interaction, ablation); ablation "no_interaction" becomes interaction "none".

    Args:
        interaction: the value of --interaction, or None if it is not set.
        ablation: the value of --ablation.

    Raises:
        UserError: the two contradict each other.
    """
    if ablation != "no_interaction":
        return interaction or "dot", ablation
    if interaction not in (None, "none"):
        problem = f"means --interaction=none, which contradicts --interaction={interaction}"
        raise UserError.of_flag("ablation", ablation, problem)
    return "none", "none"


def read_interval(text: str) -> CheckpointInterval:
    """Returns the interval of --checkpoint_interval.

    Raises:
        UserError: the text is neither steps nor minutes.
    """
    match = re.fullmatch(r"([0-9]{1,9})|([0-9]{1,9}(?:\.[0-9]{1,9})?) ?min", text.strip())
    if match is None:
        problem = "expected a number of steps, or minutes such as 30min"
        raise UserError.of_flag("checkpoint_interval", text, problem)
    steps, minutes = int(match[1] or 0), float(match[2] or 0)
    return CheckpointInterval(steps or None, minutes or None)


def read_steps(text: str | None) -> tuple[int, int] | None:
    """Returns (first step, last step) of --profile_steps, or None.

    Raises:
        UserError: the text is not a range of steps.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError.of_flag("profile_steps", text, "expected a range of steps such as 100-110")
    return int(match[1]), int(match[2])


def read_loss_scale(text: str) -> float | str:
    """Returns --loss_scale as "auto", "dynamic" or a number.

    Raises:
        UserError: the text is not one of these, or the number is below 1 or too large.
    """
    if text in ("auto", "dynamic"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1.0 <= value <= _LARGEST_SCALE:
        problem = "expected auto, dynamic or a number of at least 1"
        raise UserError.of_flag("loss_scale", text, problem)
    return value


def read_row_optimizer(name: str, options: str | None) -> RowOptimizer:
    """Returns the `RowOptimizer` of --embedding_optimizer and --embedding_optimizer_options.

    Args:
        name: a name in `model.embedding.optimizers.OPTIMIZERS`.
        options: text such as "l1=0.001,beta=1", or None.

    Raises:
        UserError: the optimizer has no such option, or a value is out of range.
    """
    optimizer = find(name)
    if options is None:
        return optimizer
    try:
        if not optimizer.hyperparameters:
            raise OptimizerError(f"--embedding_optimizer={name} has no options")
        return optimizer.with_options(parse_options(options))
    except OptimizerError as error:
        raise UserError.of_flag("embedding_optimizer_options", options, str(error)) from error


def read_optimizer_options(name: str, options: str | None) -> dict[str, float]:
    """Returns {name: value} of all hyper-parameters of --optimizer.

    Args:
        name: a name in `training.optimizers.OPTIMIZERS`.
        options: the text of --optimizer_options, such as "epsilon=1e-8", or None.

    Raises:
        UserError: the optimizer has no such option, or a value is out of range.
    """
    optimizer = OPTIMIZERS[name]
    try:
        if options is not None and not optimizer.hyperparameters:
            raise OptimizerError(f"--optimizer={name} has no options")
        return optimizer.values_of({} if options is None else parse_options(options))
    except OptimizerError as error:
        raise UserError.of_flag("optimizer_options", options or "", str(error)) from error
