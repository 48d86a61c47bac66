"""Translates errors of TensorFlow, Horovod and NumPy into one-line errors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from training.runtime.errors import RankLostError, UserError

# Messages of Horovod's collectives after the loss of another rank.
_LOST = re.compile(
    r"HorovodInternalError|Horovod has been shut down|Connection (reset|closed)|"
    r"Read error|Write error|Broken pipe|Timed out waiting|Socket closed|gloo",
    re.IGNORECASE,
)

# The errors that our ops and the reader raise; their first line is the message for the user.
_USER_ERRORS = (
    tf.errors.InvalidArgumentError,
    tf.errors.DataLossError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.ResourceExhaustedError,
)


@contextlib.contextmanager
def translate_errors(rank: int, size: int) -> Iterator[None]:
    """A context that translates errors of TensorFlow, Horovod and NumPy.

    Args:
        rank: this rank, for the message.
        size: number of ranks; a single rank never raises `RankLostError`.

    Raises:
        UserError: bad data, or too little memory.
        RankLostError: a collective failed because another rank is gone.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if isinstance(error, _USER_ERRORS):
            raise UserError(_first_line(error.message)) from error
        if size > 1 and _LOST.search(error.message):
            raise RankLostError(_lost_text(rank, error.message)) from error
        raise
    except MemoryError as error:
        raise UserError(f"rank {rank} does not have enough memory: {error}") from error
    except Exception as error:
        if type(error).__name__ == "HorovodInternalError":
            raise RankLostError(_lost_text(rank, str(error))) from error
        raise


def _first_line(message: str) -> str:
    lines = [line for line in message.splitlines() if line.strip()]
    # TensorFlow adds the failed node: "{{node ...}} text" or "text [[{{node ...}}]]".
    text = re.sub(r"^\s*\{\{[^}]*\}\}\s*", "", lines[0]) if lines else message
    text = re.sub(r"\s*\[\[.*\]\]\s*", "", text)
    return text or message


def _lost_text(rank: int, message: str) -> str:
    return f"rank {rank} lost the connection to another rank: {_first_line(message)[:300]}"
