"""Turns what TensorFlow and Horovod raise into one line that says what happened."""

import contextlib
import re

import tensorflow as tf

from training.runtime.errors import RankLostError, UserError

# What Horovod's exchanges say when another rank has gone.
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
def translate_errors(rank, size):
    """Raises `UserError` and `RankLostError` for what TensorFlow, Horovod and NumPy raise.

    The former is for bad data met on the way and for too little memory, the latter for a lost rank.

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


def _first_line(message):
    lines = [line for line in message.splitlines() if line.strip()]
    # Grappler prefixes a failed node's location: "{{node ...}} text" or "[[{{node ...}}]]".
    text = re.sub(r"^\s*\{\{[^}]*\}\}\s*", "", lines[0]) if lines else message
    text = re.sub(r"\s*\[\[.*\]\]\s*", "", text)
    return text or message


def _lost_text(rank, message):
    return f"rank {rank} lost the connection to another rank: {_first_line(message)[:300]}"
