"""Samples of any layout as NumPy arrays, a chunk at a time, checked on the way.

This is the path of the tools (split, convert, validate); training reads with `dataset.reader`.
"""

import os
from typing import NamedTuple

import numpy as np

from dataset.columns import apply_transform
from dataset.errors import DatasetError

#: Samples of a chunk. Digests of columns are over blocks of this many samples, so that chunks can
#: be worked on in any order; it is part of the format of metadata.json.
CHUNK_SAMPLES = 65536


class Chunk(NamedTuple):
    """Consecutive samples, as stored.

    Attributes:
        first: index of the first sample.
        label: [n], stored dtype.
        dense: [n, dense features], stored dtype, transform not applied.
        ids: one array [n, width] for each categorical column, stored dtype.
    """

    first: int
    label: np.ndarray
    dense: np.ndarray
    ids: list


class ChunkReader:
    """Reads chunks of a described split. Safe to use from several threads."""

    def __init__(self, description):
        self.description = description
        self._files = {}

    def __enter__(self):
        try:
            for column in self.description.columns:
                for segment in column.segments:
                    if segment.path not in self._files:
                        self._files[segment.path] = os.open(segment.path, os.O_RDONLY)
        except OSError as error:
            self.__exit__()
            raise DatasetError(f"{error.filename}: cannot be read: {error.strerror}") from error
        return self

    def __exit__(self, *_):
        for handle in self._files.values():
            os.close(handle)
        self._files = {}

    def read(self, first, count):
        """Returns samples first .. first + count - 1 as a `Chunk`."""
        # Columns of one file (raw records) share one read of it.
        shared = {}
        arrays = [self._read_column(c, first, count, shared) for c in self.description.columns]
        by_column = dict(zip(self.description.columns, arrays))
        return Chunk(
            first=first,
            label=by_column[self.description.label_column][:, 0],
            dense=by_column[self.description.dense_column],
            ids=[by_column[column] for column in self.description.table_columns],
        )

    def _read_column(self, column, first, count, shared):
        dtype = np.dtype(column.dtype)
        # Bytes that are no booleans must show up, so they are not read as booleans.
        stored = np.dtype(np.uint8) if dtype == bool else dtype
        parts = []
        for segment in column.segments:
            if count and first < segment.samples:
                here = min(count, segment.samples - first)
                record = segment.offset // column.stride * column.stride
                field = segment.offset - record if column.stride > column.bytes_per_sample else 0
                begin = segment.offset - field + first * column.stride
                data = self._read_bytes(segment.path, begin, here * column.stride, shared)
                parts.append(
                    np.ndarray(
                        (here, column.width), stored, data, field, (column.stride, dtype.itemsize)
                    )
                )
                count -= here
                first = 0
            else:
                first -= segment.samples
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read_bytes(self, path, offset, length, shared):
        key = (path, offset, length)
        if key not in shared:
            data = bytearray(length)
            try:
                found = os.preadv(self._files[path], [data], offset)
            except OSError as error:
                raise DatasetError(
                    f"{path}: read error at byte {offset}: {error.strerror}"
                ) from error
            if found != length:
                raise DatasetError(
                    f"{path}: truncated while being read: at byte {offset} expected {length} "
                    f"bytes, found {found}"
                )
            shared[key] = data
        return shared[key]


def check_labels(chunk, where):
    """Raises `DatasetError` unless every label of the chunk is 0 or 1."""
    wrong = (chunk.label != 0) & (chunk.label != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DatasetError(
            f"{where}: sample {chunk.first + row}: label {chunk.label[row]}: expected 0 or 1"
        )


def largest_ids(ids):
    """Returns each column's largest id of [n, width] ids, negative ones counting as huge."""
    unsigned = ids.view(f"u{ids.dtype.itemsize}") if ids.dtype.kind == "i" else ids
    if ids.shape[1] == 1:
        return unsigned.max(axis=0)
    # Folding rows together first keeps the inner loops long.
    rows = len(ids) // 64 * 64
    worst = unsigned[rows:].max(axis=0, initial=0)
    if rows:
        folded = np.maximum.reduce(unsigned[:rows].reshape(64, rows // 64, -1), axis=0)
        worst = np.maximum(worst, folded.max(axis=0))
    return worst


def check_ids(chunk, columns, vocab_sizes):
    """Raises `DatasetError` unless every id lies in its table's vocabulary."""
    for column, ids in zip(columns, chunk.ids):
        bounds = np.array([vocab_sizes[table] for table in column.tables], np.int64)
        beyond = largest_ids(ids) >= bounds
        if not beyond.any():
            continue
        position = int(np.argmax(beyond))
        table, values = column.first_table + position, ids[:, position].astype(np.int64)
        row = int(np.argmax((values < 0) | (values >= bounds[position])))
        raise DatasetError(
            f"{column.segments[0].path}: table {table}, sample {chunk.first + row}: id "
            f"{values[row]} is outside the vocabulary: expected 0 to {bounds[position] - 1}"
        )


def transformed_dense(chunk, column):
    """Returns the chunk's dense values [n, width] as float32, transformed and found finite.

    Raises:
        DatasetError: a value for which the transform has no finite result, or a stored NaN.
    """
    values = apply_transform(chunk.dense, column.transform)
    finite = np.isfinite(values)
    if not finite.all():
        row, position = (int(i) for i in np.argwhere(~finite)[0])
        what = "is" if column.transform == "none" else f"under {column.transform} gives"
        raise DatasetError(
            f"{column.segments[0].path}: sample {chunk.first + row}, dense feature {position}: "
            f"value {chunk.dense[row, position]} {what} {values[row, position]}: expected a "
            "finite number"
        )
    return values
