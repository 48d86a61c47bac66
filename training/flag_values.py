"""Flags whose values are a text with a meaning of its own. No TensorFlow is imported."""

from __future__ import annotations

import math
import re

from training.runtime.errors import UserError

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([KMGT]?)(?:i?B)?\s*", re.IGNORECASE)
#: TensorFlow's largest float32.
_LARGEST_SCALE = 3.4028234663852886e38


def read_bytes(name, text):
    """Returns the bytes that "70GiB", "800M" or "1073741824" stand for (binary units).

    Args:
        name: the flag's, for the error.
        text: its value.

    Raises:
        UserError: the text is no size.
    """
    match = _SIZE.fullmatch(text)
    if not match:
        raise UserError(f"--{name}={text}: expected a size such as 70GiB or 800M")
    return int(float(match[1]) * _UNITS[match[2].upper()])


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


def read_interval(text):
    """Returns (steps or None, minutes or None) of --checkpoint_interval.

    Raises:
        UserError: it is neither steps nor minutes.
    """
    match = re.fullmatch(r"([0-9]{1,9})|([0-9]{1,9}(?:\.[0-9]{1,9})?) ?min", text.strip())
    if match is None:
        raise UserError(
            f"--checkpoint_interval={text}: expected a number of steps, or minutes such as 30min"
        )
    steps, minutes = int(match[1] or 0), float(match[2] or 0)
    return steps or None, minutes or None


def read_steps(text):
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


def read_loss_scale(text):
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
