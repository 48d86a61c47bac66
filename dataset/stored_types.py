"""Finds out from a sample whether stored 4-byte words are int32 or float32.

Files of words do not say which, and both are written: by this project and the MLPerf reference
int32 counts, by HugeCTR and NumPy users float32. Read as the other type, floats become counts of
about 10^9 and counts become 0; both are plausible numbers for every later check.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dataset.chunks import ChunkReader
from dataset.columns import DENSE, LABEL, TRANSFORMS, DatasetDescription
from dataset.errors import DatasetError

#: Samples read at each of three places: the start, the middle and the end of a split.
_SAMPLES = 4096
_WORD_TYPES = ("int32", "float32")
# As float32, words of 1 up to here are below 2^-40 (most of them subnormal): they are counts.
_SMALLEST_FLOAT, _LARGEST_FLOAT = (
    int(bits) for bits in np.array([2.0**-40, 2.0**40], np.float32).view(np.uint32)
)
# Words from here on are NaN as float32, and as int32 a negative number above -2^23.
_NEGATIVE_COUNTS = 0xFF800001
# What processors write for 0/0 and 1/0: it may stand in any file of floats.
_NANS = (0x7FC00000, 0xFFC00000)
#: Share of words that must be counts for a feature to be one of int32: large counts look like
#: floats, but no floats look like counts.
_COUNTS_SHARE = 0.1


class Declared(NamedTuple):
    """What the user says of a split's stored values, None where nothing is said.

    Attributes:
        label: "int32" or "float32".
        dense: "int32" or "float32".
        dense_transform: a name from `dataset.columns.TRANSFORMS`, still to be applied.
        applied_transform: such a name, what the stored dense values have been through.
    """

    label: str | None = None
    dense: str | None = None
    dense_transform: str | None = None
    applied_transform: str | None = None

    def dtype(self, kind: str) -> str | None:
        """Returns the dtype that is declared of the columns of a kind."""
        return {LABEL: self.label, DENSE: self.dense}[kind]


def looks_like(words: np.ndarray) -> str | None:
    """Returns "int32" or "float32", "unclear" or, if all words are zero, None.

    Unclear are words of which some features look like the one, some like the other, or all like
    neither.

    Words are counts if they are subnormal or tiny as float32, or NaN with the bits of a small
    negative number; they are floats if they have a magnitude of 2^-40 to 2^40 as float32. Zeros
    are the same in both. Each feature has one vote, so that one of large numbers (times in
    seconds) makes a file unclear, not float32.

    Args:
        words: [samples, features], any type of four bytes.
    """
    bits = np.ascontiguousarray(words).view(np.uint32)
    counts = (bits > 0) & (bits < _SMALLEST_FLOAT) | (bits >= _NEGATIVE_COUNTS)
    counts &= ~np.isin(bits, _NANS)
    magnitude = bits & 0x7FFFFFFF
    floats = (magnitude >= _SMALLEST_FLOAT) & (magnitude < _LARGEST_FLOAT)
    for_int, for_float = counts.sum(axis=0), floats.sum(axis=0)
    votes = for_int + for_float
    int_features = int(((votes > 0) & (for_int >= _COUNTS_SHARE * votes)).sum())
    features = int((votes > 0).sum())
    if not features:
        return "unclear" if magnitude.any() else None
    return {0: "float32", features: "int32"}.get(int_features, "unclear")


def check_stored_types(
    description: DatasetDescription, origins: Mapping[str, str], declared: Declared
) -> None:
    """Compares the dtypes of a split's label and dense columns with a sample of its bytes.

    Reads at most 3 x 4,096 samples, whatever the size.

    Args:
        description: the split.
        origins: for LABEL and DENSE, where a file says the dtype, such as "data/metadata.json:
            dense_raw_type"; nothing where the layout's usual dtype is assumed.
        declared: what the user says.

    Raises:
        DatasetError: the bytes are of the other type; or they could be of either and nothing says
            which; or a transform of counts is assumed for what are no counts.
    """
    columns = (description.label_column, description.dense_column)
    if not any(column.dtype in _WORD_TYPES for column in columns):
        return
    found = _sample(description)
    problems, flags = [], []
    for column, kind, what in zip(columns, (LABEL, DENSE), ("labels", "dense values")):
        if column.dtype not in _WORD_TYPES:
            continue
        looks = looks_like(found[kind])
        origin = f"--{kind}_type" if declared.dtype(kind) else origins.get(kind)
        if looks in (None, column.dtype) or (looks == "unclear" and origin):
            continue
        is_said = f"{origin} says {column.dtype}" if origin else f"expected {column.dtype}"
        path = column.segments[0].path
        if looks == "unclear":
            problems.append(
                f"{path}: {what}: {is_said}, found words that may be int32 or float32 "
                f"({_examples(found[kind], 'int32')}; {_examples(found[kind], 'float32')})"
            )
            flags.append(f"--{kind}_type int32 or --{kind}_type float32")
        else:
            problems.append(
                f"{path}: {what}: {is_said}, found {looks} ({_examples(found[kind], looks)})"
            )
            flags.append(f"--{kind}_type {looks}")
    if problems:
        # Fractions are no counts: the other transform has to be given with the type.
        if "--dense_type float32" in flags and _are_fractions(found[DENSE].view(np.float32)):
            flags.append("--dense_transform none")
        raise DatasetError(f"{'; '.join(problems)}; {_remedy(origins, flags)}")
    _check_transform(description, found[DENSE], origins, declared)


def _check_transform(description, words, origins, declared):
    column = description.dense_column
    if (
        column.dtype != "float32"
        or TRANSFORMS[column.transform] is None
        or declared.dense_transform is not None
        or declared.applied_transform is not None
        or DENSE in origins
        or not _are_fractions(words.view(np.float32))
    ):
        return
    raise DatasetError(
        f"{column.segments[0].path}: dense values: expected counts, of which {column.transform} is "
        f"still to be taken, found {_examples(words, 'float32')}; "
        + _remedy(origins, ["--dense_transform none (they are used as stored)"])
    )


def _remedy(origins, flags):
    if origins:
        return "correct that file, or write the split anew with " + " ".join(flags)
    return (
        f"give {' '.join(flags)} to split_bin.py or dataset.convert, whose output says its types "
        "(dataset.validate takes the same flags)"
    )


def _are_fractions(values):
    """Returns whether most values other than 0 are no whole numbers."""
    values = values[np.isfinite(values) & (values != 0)]
    return bool(np.count_nonzero(values != np.trunc(values)) > values.size / 2)


def _examples(words, dtype):
    values = words.reshape(-1).view(dtype)
    values = values[values != 0][:3]
    return f"as {dtype} " + ", ".join(f"{value:.7g}" for value in values)


def _sample(description):
    """Returns {LABEL: words [n, 1], DENSE: words [n, width]} of the start, middle and end."""
    count = min(_SAMPLES, description.samples)
    last = description.samples - count
    label, dense = [], []
    with ChunkReader(description) as reader:
        for first in sorted({0, last // 2, last}):
            chunk = reader.read(first, count)
            # Copies: the reader's arrays are its next chunk's as well.
            label.append(chunk.label[:, None].copy())
            dense.append(chunk.dense.copy())
    return {LABEL: np.concatenate(label), DENSE: np.concatenate(dense)}
