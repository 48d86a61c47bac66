"""Read what a plan is asked for: table sizes, layer widths, the precision of a device."""

from __future__ import annotations

import json
import os
import re

from model.published_runs import VOCABULARIES


def read_vocab_sizes(text):
    """Read table sizes from a name, a comma-separated list or a JSON file.

    Args:
      text: a name in `model.published_runs.VOCABULARIES`; `39043,17289,…`; or the path of a
        JSON file that is a list of sizes or has one as `vocab_sizes` (metadata.json).

    Returns:
      A tuple of integers.

    Raises:
      ValueError: if it is none of these.
    """
    if text in VOCABULARIES:
        return VOCABULARIES[text]
    if re.fullmatch(r"[\d,\s]+", text):
        return tuple(int(size) for size in text.replace(",", " ").split())
    if not os.path.isfile(text):
        raise ValueError(
            f"vocab_sizes {text!r} is neither a file, nor a comma-separated list, nor one of "
            f"{', '.join(VOCABULARIES)}"
        )
    try:
        with open(text, encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{text}: cannot read table sizes: {error}") from None
    sizes = document.get("vocab_sizes") if isinstance(document, dict) else document
    if not isinstance(sizes, list) or not all(type(size) is int for size in sizes):
        raise ValueError(f"{text}: expected a list of integers, alone or as 'vocab_sizes'")
    return tuple(sizes)


def read_widths(name, text):
    """Read layer widths such as `512,256,128`.

    Raises:
      ValueError: naming the flag, if it is no such list.
    """
    try:
        return tuple(int(width) for width in text.split(","))
    except ValueError:
        raise ValueError(f"--{name}={text} is not a list of layer widths such as 512,256") from None


def check_column_split(optimizer):
    """Raise ValueError where tables of an optimizer cannot be halved by column."""
    if optimizer == "rowwise_adagrad":
        raise ValueError(
            "--column_split does not go with row-wise Adagrad, which keeps one number for a whole "
            "row: leave --column_split out, or take adagrad"
        )


def precision_of(device, amp):
    """Return the precision of the matrix products: TensorFlow's default, or AMP's.

    Without AMP, TensorFlow uses TF32 where the GPU has it (from A100 on).
    """
    on_cpu = device.startswith("cpu")
    if amp:
        return "bf16" if on_cpu else "fp16"
    return "fp32" if on_cpu or device.startswith("v100") else "tf32"
