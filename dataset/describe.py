"""Builds descriptions of folders whose columns each fill one file."""

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
    """Returns the `Column` that fills the file `path`, whose size must fit `samples`."""
    check_dtype(kind, dtype, path)
    stride = width * np.dtype(dtype).itemsize
    hint = _other_size(files.size(path), samples * width, dtype)
    files.expect_samples(path, stride, samples, hint=hint)
    segments = files.whole_file(path, samples)
    return Column(kind, segments, dtype, width, stride, first_table, transform, applied)


def _other_size(found, values, dtype):
    """Returns a hint where a file has the size of another dtype's values, else ""."""
    for size in (1, 2, 4, 8):
        if values and found == values * size != values * np.dtype(dtype).itemsize:
            wide = ": int64 or float64 values, perhaps: write them as 4-byte ones"
            return f": values of {size} bytes, expected {dtype}{wide if size == 8 else ''}"
    return ""


def check_table_files(folder: str, prefix: str, tables: int) -> None:
    """Raises `DatasetError` where a folder has more files of ids than there are tables."""
    beyond = os.path.join(folder, f"{prefix}{tables}.bin")
    if files.exists(beyond):
        raise DatasetError(
            f"{beyond}: expected {tables} files {prefix}0.bin to {prefix}{tables - 1}.bin, one for "
            f"each of {tables} vocabulary sizes, found more"
        )


def describe_files(
    folder: str,
    layout: str,
    columns: Sequence[tuple[str, str, str, int, int, str]],
    vocab_sizes: list[int],
    root: str | None = None,
) -> DatasetDescription:
    """Describes columns that each fill one file; the label's file says how many samples.

    Args:
        folder: the split's folder.
        layout: name of the layout.
        columns: (file name, kind, dtype, width, first table, transform) each.
        vocab_sizes: rows of each table.
        root: the folder that file names are relative to, where that is not the split's.
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


def from_metadata(folder: str, content: Mapping[str, Any]) -> DatasetDescription:
    """Describes a split folder that this project wrote, from its checked metadata.json."""
    where = os.path.join(folder, metadata.FILE_NAME)
    samples = content["samples"]
    if not samples:
        raise DatasetError(f"{where}: holds no samples")
    columns = []
    tables = 0
    for stored in content["columns"]:
        kind, path = stored["kind"], os.path.join(folder, stored["file"])
        if kind not in (LABEL, DENSE, CATEGORICAL):
            raise DatasetError(f"{where}: unknown kind of column {kind!r}")
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
            raise DatasetError(f"{where}: expected one {kind} column, found {kinds.count(kind)}")
    return DatasetDescription(
        path=folder,
        layout=content["layout"],
        samples=samples,
        vocab_sizes=content["vocab_sizes"],
        columns=tuple(columns),
        fingerprint=content["fingerprint"],
        attainable_auc=content.get("attainable_auc"),
    )
