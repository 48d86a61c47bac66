"""Describes folders in which each column is one file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dataset import files, lists, metadata
from dataset.columns import (
    CATEGORICAL,
    DENSE,
    LABEL,
    Column,
    DatasetDescription,
    check_dtype,
    narrow_dtype,
)
from dataset.errors import DatasetError
from ops.bags import Bags

#: Dense features of every Criteo layout.
DENSE_FEATURES = 13


class FileColumn(NamedTuple):
    """A column in one file: see `Column`."""

    file: str
    kind: str
    dtype: str
    width: int
    first_table: int = 0
    transform: str = "none"
    bags: Bags | None = None


def file_column(
    path: str,
    kind: str,
    dtype: str,
    width: int,
    samples: int,
    first_table: int = 0,
    transform: str = "none",
    applied: str | None = None,
    bags: Bags | None = None,
) -> Column:
    """Returns the `Column` in the file `path`, whose size must match `samples`.

    Raises:
        DatasetError: the dtype is not allowed, or the size does not match.
    """
    check_dtype(kind, dtype, path)
    stride = width * np.dtype(dtype).itemsize
    bags = None if bags is None or bags.is_one_hot else bags
    hint = _other_size(files.size(path), samples, width, dtype, bags)
    files.expect_samples(path, stride, samples, hint=hint)
    segments = files.single_segment(path, samples)
    return Column(kind, segments, dtype, width, stride, first_table, transform, applied, bags)


def _other_size(found, samples, width, dtype, bags):
    """Returns a hint if the file size fits values of another size or number, else ""."""
    values, itemsize = samples * width, np.dtype(dtype).itemsize
    ids = found // max(1, samples * itemsize)
    if bags is not None and ids not in (0, width) and found == samples * ids * itemsize:
        return f"; the size fits {ids} id{'s' * (ids > 1)} per sample, not {width}: check hotness"
    for size in (1, 2, 4, 8):
        if values and found == values * size != values * itemsize:
            wide = "; write int64 and float64 as 4-byte values" if size == 8 else ""
            return f"; the size fits values of {size} bytes, not {dtype}{wide}"
    return ""


def check_table_files(folder: str, prefix: str, tables: int) -> None:
    """Raises `DatasetError` if a folder has more id files than there are tables."""
    beyond = os.path.join(folder, f"{prefix}{tables}.bin")
    if files.exists(beyond):
        raise DatasetError.of_path(beyond, f"expected {tables} files {prefix}*.bin, found more")


def describe_files(
    folder: str,
    layout: str,
    columns: Sequence[FileColumn],
    vocab_sizes: list[int],
    root: str | None = None,
) -> DatasetDescription:
    """Describes columns in one file each; the size of the label's file gives the sample count.

    Args:
        folder: the split's folder.
        layout: name of the layout.
        columns: the columns.
        vocab_sizes: rows of each table.
        root: folder that the file names are relative to; default: `folder`.

    Raises:
        DatasetError: a file is missing or its size does not match.
    """
    root = folder if root is None else root
    paths = [os.path.join(root, column.file) for column in columns]
    label, dtype = next(
        (path, column.dtype) for path, column in zip(paths, columns) if column.kind == LABEL
    )
    check_dtype(LABEL, dtype, label)
    samples = files.count_samples(label, np.dtype(dtype).itemsize)
    built = tuple(
        file_column(
            path, kind, dtype, width, samples, first_table, transform, applied=None, bags=bags
        )
        for path, (_, kind, dtype, width, first_table, transform, bags) in zip(paths, columns)
    )
    facts = (layout, vocab_sizes, [(c.kind, c.dtype, c.width, c.transform) for c in built])
    slots = Bags.joined(c.features for c in built if c.kind == CATEGORICAL)
    if not slots.is_one_hot:
        facts += (slots.hotness,)
    return DatasetDescription(
        path=folder,
        layout=layout,
        samples=samples,
        vocab_sizes=vocab_sizes,
        columns=built,
        fingerprint=files.sampled_fingerprint(paths, facts),
    )


def describe_narrow(
    folder: str, layout: str, vocab_sizes: list[int], bags: Bags, dense: str, ids: str
) -> DatasetDescription:
    """Describes label.bin (bool), `dense` (float16) and one narrow file `ids`N.bin per table.

    Raises:
        DatasetError: a file is missing, its size does not match, or there are more tables.
    """
    check_table_files(folder, ids, len(vocab_sizes))
    columns = [
        FileColumn("label.bin", LABEL, "bool", 1),
        FileColumn(dense, DENSE, "float16", DENSE_FEATURES),
        *table_columns(ids, [narrow_dtype(rows) for rows in vocab_sizes], bags),
    ]
    return describe_files(folder, layout, columns, vocab_sizes)


def table_columns(prefix: str, dtypes: Sequence[str], bags: Bags) -> list[FileColumn]:
    """Returns the columns in files `prefix`N.bin, one per table, of features with these bags."""
    return [
        FileColumn(
            f"{prefix}{t}.bin", CATEGORICAL, dtype, bags.hotness[t], t, "none", bags.select([t])
        )
        for t, dtype in enumerate(dtypes)
    ]


def from_metadata(folder: str, content: Mapping[str, Any]) -> DatasetDescription:
    """Describes a split folder that this project wrote, from the content of its metadata.json.

    Raises:
        DatasetError: the content is inconsistent, or a file does not match it.
    """
    where = os.path.join(folder, metadata.FILE_NAME)
    samples = content["samples"]
    if not samples:
        raise DatasetError.of_path(where, "samples: expected at least 1, found 0", bound=1)
    columns = []
    tables = 0
    for index, stored in enumerate(content["columns"]):
        kind, path = stored["kind"], os.path.join(folder, stored["file"])
        if kind not in (LABEL, DENSE, CATEGORICAL):
            raise DatasetError.mismatch(where, "kind", (LABEL, DENSE, CATEGORICAL), kind)
        transform, applied = "none", None
        if kind == DENSE:
            transform, applied = content["dense_transform"], content.get("applied_transform")
        bags = None
        if kind == CATEGORICAL:
            bags = metadata.column_bags(stored, where, f"columns[{index}]")
        if bags is not None and "offsets" in stored:
            offsets = os.path.join(folder, stored["offsets"]["file"])
            column = lists.describe(path, offsets, stored["dtype"], samples, tables, bags)
        else:
            dtype, width = stored["dtype"], stored["width"]
            column = file_column(
                path, kind, dtype, width, samples, tables, transform, applied, bags
            )
        columns.append(column)
        tables += len(column.tables) if kind == CATEGORICAL else 0
    kinds = [column.kind for column in columns]
    for kind in (LABEL, DENSE):
        if kinds.count(kind) != 1:
            raise DatasetError.mismatch(where, f"number of {kind} columns", 1, kinds.count(kind))
    return DatasetDescription(
        path=folder,
        layout=content["layout"],
        samples=samples,
        vocab_sizes=content["vocab_sizes"],
        columns=tuple(columns),
        fingerprint=content["fingerprint"],
        attainable_auc=content.get("attainable_auc"),
    )
