"""Describes folders in which each column is one file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dataset import files, metadata
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

#: Dense features of every Criteo layout.
DENSE_FEATURES = 13


def file_column(
    path: str,
    kind: str,
    dtype: str,
    width: int,
    samples: int,
    first_table: int = 0,
    transform: str = "none",
    applied: str | None = None,
) -> Column:
    """Returns the `Column` in the file `path`, whose size must match `samples`.

    Raises:
        DatasetError: the dtype is not allowed, or the size does not match.
    """
    check_dtype(kind, dtype, path)
    stride = width * np.dtype(dtype).itemsize
    hint = _other_size(files.size(path), samples * width, dtype)
    files.expect_samples(path, stride, samples, hint=hint)
    segments = files.single_segment(path, samples)
    return Column(kind, segments, dtype, width, stride, first_table, transform, applied)


def _other_size(found, values, dtype):
    """Returns a hint if the file size fits values of another width, else ""."""
    for size in (1, 2, 4, 8):
        if values and found == values * size != values * np.dtype(dtype).itemsize:
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
    columns: Sequence[tuple[str, str, str, int, int, str]],
    vocab_sizes: list[int],
    root: str | None = None,
) -> DatasetDescription:
    """Describes columns in one file each; the size of the label's file gives the sample count.

    Args:
        folder: the split's folder.
        layout: name of the layout.
        columns: (file name, kind, dtype, width, first table, transform) of each column.
        vocab_sizes: rows of each table.
        root: folder that the file names are relative to; default: `folder`.

    Raises:
        DatasetError: a file is missing or its size does not match.
    """
    root = folder if root is None else root
    paths = [os.path.join(root, name) for name, *_ in columns]
    label, dtype = next(
        (path, column[2]) for path, column in zip(paths, columns) if column[1] == LABEL
    )
    check_dtype(LABEL, dtype, label)
    samples = files.count_samples(label, np.dtype(dtype).itemsize)
    built = tuple(
        file_column(path, kind, dtype, width, samples, first_table, transform)
        for path, (_, kind, dtype, width, first_table, transform) in zip(paths, columns)
    )
    facts = (layout, vocab_sizes, [(c.kind, c.dtype, c.width, c.transform) for c in built])
    return DatasetDescription(
        path=folder,
        layout=layout,
        samples=samples,
        vocab_sizes=vocab_sizes,
        columns=built,
        fingerprint=files.sampled_fingerprint(paths, facts),
    )


def describe_narrow(
    folder: str, layout: str, vocab_sizes: list[int], dense: str, ids: str
) -> DatasetDescription:
    """Describes label.bin (bool), `dense` (float16) and one narrow file `ids`N.bin per table.

    Raises:
        DatasetError: a file is missing, its size does not match, or there are more tables.
    """
    check_table_files(folder, ids, len(vocab_sizes))
    columns = [
        ("label.bin", LABEL, "bool", 1, 0, "none"),
        (dense, DENSE, "float16", DENSE_FEATURES, 0, "none"),
    ]
    for table, rows in enumerate(vocab_sizes):
        columns.append((f"{ids}{table}.bin", CATEGORICAL, narrow_dtype(rows), 1, table, "none"))
    return describe_files(folder, layout, columns, vocab_sizes)


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
    for stored in content["columns"]:
        kind, path = stored["kind"], os.path.join(folder, stored["file"])
        if kind not in (LABEL, DENSE, CATEGORICAL):
            raise DatasetError.mismatch(where, "kind", (LABEL, DENSE, CATEGORICAL), kind)
        transform, applied = "none", None
        if kind == DENSE:
            transform, applied = content["dense_transform"], content.get("applied_transform")
        columns.append(
            file_column(
                path, kind, stored["dtype"], stored["width"], samples, tables, transform, applied
            )
        )
        tables += stored["width"] if kind == CATEGORICAL else 0
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
