"""Read what a plan is asked for: table sizes, the precision of a device."""

from __future__ import annotations

import os
import re
from typing import Annotated, TypedDict, Union

import msgspec

from model.published_runs import VOCABULARIES
from storage.structured import check_shape, read_json

_MOST_ROWS = 2**31 - 1
_Sizes = Annotated[
    list[Annotated[int, msgspec.Meta(ge=1, le=_MOST_ROWS)]],
    msgspec.Meta(min_length=1, max_length=10_000),
]


class _Metadata(TypedDict):
    vocab_sizes: _Sizes


def read_vocab_sizes(text):
    """Read table sizes from a name, a comma-separated list or a JSON file.

    Args:
      text: a name in `model.published_runs.VOCABULARIES`; `39043,17289,…`; or the path of a
        JSON file that is a list of sizes or has one as `vocab_sizes` (metadata.json).

    Returns:
      A tuple of integers.

    Raises:
      ValueError: if it is none of these; the message names the file and its field.
    """
    if text in VOCABULARIES:
        return VOCABULARIES[text]
    if re.fullmatch(r"[0-9,\s]+", text):
        return tuple(_listed(text))
    if not os.path.exists(text):
        raise ValueError(
            f"vocab_sizes {text[:200]!r} is neither a file, nor a comma-separated list, nor one of "
            f"{', '.join(VOCABULARIES)}"
        )
    try:
        document = read_json(text, Union[list, dict])
        check_shape(document, text, _Metadata if isinstance(document, dict) else _Sizes)
    except OSError as error:
        raise ValueError(f"{text}: {error.strerror}") from error
    return tuple(document["vocab_sizes"] if isinstance(document, dict) else document)


def _listed(text):
    """Yield the sizes of a comma-separated list."""
    for table, word in enumerate(text.split(",")):
        size = int(word) if re.fullmatch(r"\s*[0-9]{1,10}\s*", word) else 0
        if not 1 <= size <= _MOST_ROWS:
            raise ValueError(
                f"table {table}: expected a number of rows from 1 to {_MOST_ROWS}, found "
                f"{word.strip()[:40]!r}"
            )
        yield size


def precision_of(device, amp):
    """Return the precision of the matrix products: TensorFlow's default, or AMP's.

    Without AMP, TensorFlow uses TF32 where the GPU has it (from A100 on).
    """
    on_cpu = device.startswith("cpu")
    if amp:
        return "bf16" if on_cpu else "fp16"
    return "fp32" if on_cpu or device.startswith("v100") else "tf32"
