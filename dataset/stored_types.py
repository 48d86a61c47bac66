"""Infers from a sample whether stored 4-byte words are int32 or float32.

The files do not record the type, and both occur: this project and the MLPerf reference write int32
counts, HugeCTR and NumPy users float32. Read as the other type, floats become counts of about 10^9
and counts become about 0; both pass every later check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dataset.chunks import ChunkReader
from dataset.columns import DENSE, LABEL, TRANSFORMS, DatasetDescription
from dataset.errors import DatasetError

#: Samples read at each of the start, the middle and the end of a split.
_SAMPLES = 4096
_WORD_TYPES = ("int32", "float32")
# Words from 1 up to the first bound are below 2^-40 as float32 (most are subnormal): counts.
_SMALLEST_FLOAT, _LARGEST_FLOAT = (
    int(bits) for bits in np.array([2.0**-40, 2.0**40], np.float32).view(np.uint32)
)
# Words from here on are NaN as float32, and negative numbers above -2^23 as int32.
_NEGATIVE_COUNTS = 0xFF800001
# The NaNs that processors produce, such as for 0/0; any file of floats may contain them.
_NANS = (0x7FC00000, 0xFFC00000)
#: Minimum share of counts among the words of an int32 feature. It is small because large counts
#: look like floats, whereas floats do not look like counts.
_COUNTS_SHARE = 0.1


class Declared(NamedTuple):
    """Facts about a split's stored values as given by the user; None where not given.

    Attributes:
        label: "int32" or "float32".
        dense: "int32" or "float32".
        dense_transform: name in `dataset.columns.TRANSFORMS` of the transform to apply.
        applied_transform: name of the transform applied before the dense values were stored.
        hotness: ids of each categorical feature.
        pooling: name in `ops.bags.POOLING` for each categorical feature, or one for all.
    """

    label: str | None = None
    dense: str | None = None
    dense_transform: str | None = None
    applied_transform: str | None = None
    hotness: Sequence[int] | None = None
    pooling: Sequence[str] | None = None

    def dtype(self, kind: str) -> str | None:
        """Returns the declared dtype of the columns of a kind, LABEL or DENSE."""
        return {LABEL: self.label, DENSE: self.dense}[kind]


def infer_dtype(words: np.ndarray) -> str | None:
    """Returns "int32" or "float32"; "unclear" if the features disagree; None if all words are 0.

    A word is a count if, as float32, it is subnormal or tiny, or a NaN whose bits are a small
    negative integer. It is a float if its magnitude as float32 is from 2^-40 to 2^40. Zero is the
    same in both types. Each feature has one vote, so that one feature of large numbers (times in
    seconds) makes a file "unclear" and not "float32". Words that are neither are "unclear" too.

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

    Reads at most 3 x 4,096 samples.

    Args:
        description: the split.
        origins: for LABEL and DENSE, the place that records the dtype, such as
            "data/metadata.json: dense_raw_type"; absent where the layout's usual dtype is assumed.
        declared: the facts given by the user.

    Raises:
        DatasetError: the bytes have the other type; or the type is unclear and nothing records it;
            or the layout's logarithm would be applied to values that are not counts.
    """
    columns = (description.label_column, description.dense_column)
    if not any(column.dtype in _WORD_TYPES for column in columns):
        return
    found = _sample(description)
    problems, flags, fields = [], [], {}
    for column, kind, what in zip(columns, (LABEL, DENSE), ("labels", "dense values")):
        if column.dtype not in _WORD_TYPES:
            continue
        inferred = infer_dtype(found[kind])
        origin = f"--{kind}_type" if declared.dtype(kind) else origins.get(kind)
        if inferred in (None, column.dtype) or (inferred == "unclear" and origin):
            continue
        expected = f"expected {column.dtype}" + (f" ({origin})" if origin else "")
        path = column.segments[0].path
        if inferred == "unclear":
            problems.append(
                f"{path}: {what}: {expected}, found 4-byte values that may be int32 or "
                f"float32 (as int32 {_examples(found[kind], 'int32')}; "
                f"as float32 {_examples(found[kind], 'float32')})"
            )
            flags.append(f"--{kind}_type int32 or --{kind}_type float32")
        else:
            problems.append(
                f"{path}: {what}: {expected}, found {inferred} "
                f"(such as {_examples(found[kind], inferred)})"
            )
            flags.append(f"--{kind}_type {inferred}")
        # With two problems, the fields describe the first one.
        fields = fields or {
            "flag": f"{kind}_type", "path": path, "expected": column.dtype, "found": inferred,
        }  # fmt: skip
    if problems:
        # Fractions are not counts: they also need another transform.
        if "--dense_type float32" in flags and _are_fractions(found[DENSE].view(np.float32)):
            flags.append("--dense_transform none")
        problems.append(_remedy(flags, recorded=bool(origins)))
        raise DatasetError("; ".join(problems), **fields)
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
    flag = "--dense_transform none (to use the values as stored)"
    remedy = f"write the split again with {flag}" if origins else _remedy([flag])
    raise DatasetError.of_path(
        column.segments[0].path,
        f"dense values: expected counts, because {column.transform} will be applied; found "
        f"float32 values such as {_examples(words, 'float32')}; {remedy}",
        flag="dense_transform",
        found=column.transform,
    )


def _remedy(flags, recorded=False):
    if recorded:
        return "correct the recorded type, or write the split again with " + " ".join(flags)
    return (
        f"give {' '.join(flags)} to split_bin.py or dataset.convert, whose output records its "
        "types (dataset.validate accepts the same flags)"
    )


def _are_fractions(values):
    """Returns whether most values other than 0 are not integers."""
    values = values[np.isfinite(values) & (values != 0)]
    return bool(np.count_nonzero(values != np.trunc(values)) > values.size / 2)


def _examples(words, dtype):
    values = words.reshape(-1).view(dtype)
    values = values[values != 0][:3]
    return ", ".join(f"{value:.7g}" for value in values)


def _sample(description):
    """Returns {LABEL: words [n, 1], DENSE: words [n, width]} from the start, middle and end."""
    count = min(_SAMPLES, description.samples)
    last = description.samples - count
    label, dense = [], []
    with ChunkReader(description) as reader:
        for first in sorted({0, last // 2, last}):
            chunk = reader.read(first, count)
            # Copies: the reader reuses its arrays for the next chunk.
            label.append(chunk.label[:, None].copy())
            dense.append(chunk.dense.copy())
    return {LABEL: np.concatenate(label), DENSE: np.concatenate(dense)}
