"""Settings whose values are a text with a meaning of its own. No TensorFlow is imported."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from model.embedding.optimizers import OptimizerError, RowOptimizer, find, parse_options
from training.runtime.errors import UserError

#: TensorFlow's largest float32.
_LARGEST_SCALE = 3.4028234663852886e38


class CheckpointInterval(NamedTuple):
    """Between two checkpoints: so many steps, or so many minutes, or (neither) the whole run."""

    steps: int | None
    minutes: float | None


def read_interaction(interaction: str | None, ablation: str) -> tuple[str, str]:
    """Returns (interaction, ablation) of a model; `no_interaction` is an old name of "none".

    Args:
        interaction: the value of --interaction; None where it is not given.
        ablation: the value of --ablation.

    Raises:
        UserError: the two contradict each other.
    """
    if ablation != "no_interaction":
        return interaction or "dot", ablation
    if interaction not in (None, "none"):
        raise UserError(
            f"--ablation=no_interaction, an old spelling of --interaction=none, contradicts "
            f"--interaction={interaction}: leave one of them out"
        )
    return "none", "none"


def read_interval(text: str) -> CheckpointInterval:
    """Returns what --checkpoint_interval means.

    Raises:
        UserError: it is neither steps nor minutes.
    """
    match = re.fullmatch(r"([0-9]{1,9})|([0-9]{1,9}(?:\.[0-9]{1,9})?) ?min", text.strip())
    if match is None:
        raise UserError(
            f"--checkpoint_interval={text}: expected a number of steps, or minutes such as 30min"
        )
    steps, minutes = int(match[1] or 0), float(match[2] or 0)
    return CheckpointInterval(steps or None, minutes or None)


def read_steps(text: str | None) -> tuple[int, int] | None:
    """Returns the (first, last) step of --profile_steps, or None.

    Raises:
        UserError: the text is no range of steps.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--profile_steps={text}: expected a range of steps such as 100-110")
    return int(match[1]), int(match[2])


def read_loss_scale(text: str) -> float | str:
    """Returns "auto", "dynamic" or the number of --loss_scale.

    Raises:
        UserError: it is none of these.
    """
    if text in ("auto", "dynamic"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1.0 <= value <= _LARGEST_SCALE:
        raise UserError(f"--loss_scale={text}: expected auto, dynamic or a number of at least 1")
    return value


def read_row_optimizer(name: str, options: str | None) -> RowOptimizer:
    """Returns the `RowOptimizer` of --embedding_optimizer and --embedding_optimizer_options.

    Args:
        name: of the optimizer.
        options: such as "l1=0.001,beta=1", or None.

    Raises:
        UserError: an option is unknown to the optimizer, or its value cannot be.
    """
    optimizer = find(name)
    if options is None:
        return optimizer
    try:
        if not optimizer.hyperparameters:
            raise OptimizerError(f"--embedding_optimizer={name} has no options: leave it out")
        return optimizer.with_options(parse_options(options))
    except OptimizerError as error:
        raise UserError(f"--embedding_optimizer_options={options}: {error}") from error
