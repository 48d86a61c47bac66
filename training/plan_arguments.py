"""Read what a plan is asked for: amounts of memory and lists of table sizes."""

from __future__ import annotations

import json
import os
import re

from model.published_runs import VOCABULARIES

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS.update({"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40})


def parse_bytes(text):
    """Read `40GB`, `37.5GiB` or a plain number of bytes.

    Raises:
      ValueError: if it is none of these.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if not match or match[2].lower() not in _UNITS:
        raise ValueError(f"{text!r} is not an amount of memory such as 40GB or 37.5GiB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


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
