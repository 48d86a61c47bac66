"""Turns the errors of TensorFlow and Horovod into one line about what happened."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from training.runtime.errors import RankLostError, UserError

# Messages of Horovod's exchanges when another rank has gone.
_LOST = re.compile(
    r"HorovodInternalError|Horovod has been shut down|Connection (reset|closed)|"
    r"Read error|Write error|Broken pipe|Timed out waiting|Socket closed|gloo",
    re.IGNORECASE,
)

# What the ops and the reader raise: what was wrong, with its values, in the first line.
_OF_THE_USER = (
    tf.errors.InvalidArgumentError,
    tf.errors.DataLossError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.ResourceExhaustedError,
)


@contextlib.contextmanager
def translate_errors(rank: int, size: int) -> Iterator[None]:
    """Raises `UserError` or `RankLostError` in place of errors of TensorFlow, Horovod and NumPy.

    `UserError` means bad data or too little memory, `RankLostError` a lost rank.

    Args:
        rank: this rank, for the message.
        size: number of ranks: one rank alone loses no other, whatever an error's words.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if isinstance(error, _OF_THE_USER):
            raise UserError(_first_line(error.message)) from error
        if size > 1 and _LOST.search(error.message):
            raise RankLostError(_lost_text(rank, error.message)) from error
        raise
    except MemoryError as error:
        raise UserError(f"rank {rank} has not enough memory: {error}") from error
    except Exception as error:
        if type(error).__name__ == "HorovodInternalError":
            raise RankLostError(_lost_text(rank, str(error))) from error
        raise


def _first_line(message: str) -> str:
    lines = [line for line in message.splitlines() if line.strip()]
    # Grappler prefixes a failed node's location: "{{node ...}} text" or "[[{{node ...}}]]".
    text = re.sub(r"^\s*\{\{[^}]*\}\}\s*", "", lines[0]) if lines else message
    text = re.sub(r"\s*\[\[.*\]\]\s*", "", text)
    return text or message


def _lost_text(rank: int, message: str) -> str:
    return f"rank {rank} lost the connection to another rank: {_first_line(message)[:300]}"
