"""Reads samples of any layout as NumPy arrays, one chunk at a time, and checks them.

The tools (split, convert, validate) read this way; training reads with `dataset.reader`.
"""

from __future__ import annotations

import os
import types
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dataset import column_kernels, lists
from dataset.columns import TRANSFORMS, Column, DatasetDescription, apply_transform
from dataset.errors import DatasetError
from storage import regular
from storage.direct_io import ThreadBuffers

#: Samples per chunk. The digests in metadata.json are over blocks of this size, so that chunks can
#: be processed in any order; changing it changes the file format.
CHUNK_SAMPLES = 65536

#: Records that are read and split at a time, so that they stay in the cache.
_TILE_SAMPLES = 16384


class Chunk(NamedTuple):
    """Consecutive samples as stored, one array per column.

    Attributes:
        first: index of the first sample.
        label: [n], stored dtype.
        dense: [n, dense features], stored dtype, without the transform.
        ids: one array [n, width] per categorical column, stored dtype. For a variable feature, the
            ids of all lists, [values, 1].
        boundaries: for each categorical column with a variable feature, by its position in `ids`:
            int64 [n + 1], where the lists begin in the ids of the complete split. The lists of
            the chunk are ids[b[i] - b[0] : b[i + 1] - b[0]].
        last: whether no samples follow.
    """

    first: int
    label: np.ndarray
    dense: np.ndarray
    ids: list[np.ndarray]
    boundaries: Mapping[int, np.ndarray] = types.MappingProxyType({})
    last: bool = False


class ChunkReader:
    """Reads chunks of a described split, from any number of threads.

    The next `read` on the same thread overwrites the arrays of a chunk.
    """

    def __init__(self, description: DatasetDescription):
        self.description = description
        self._files = {}
        self._buffers = ThreadBuffers()

    def __enter__(self):
        try:
            for column in self.description.columns:
                for segment in (*column.segments, *column.offsets):
                    if segment.path not in self._files:
                        self._files[segment.path] = regular.open_regular_fd(segment.path)
        except OSError as error:
            self.__exit__()
            raise DatasetError.of_os(error) from error
        return self

    def __exit__(self, *_):
        for handle in self._files.values():
            os.close(handle)
        self._files = {}

    def read(self, first: int, count: int) -> Chunk:
        """Returns samples `first` to `first + count - 1` as a `Chunk`."""
        columns = self.description.columns
        arrays = {column: self._array(column, count) for column in columns if not column.offsets}
        if self.description.label_column.stride > self.description.label_column.bytes_per_sample:
            self._read_records(arrays, first, count)
        else:
            for column, array in arrays.items():
                self._read_column(column, first, array)
        boundaries = {}
        for position, column in enumerate(self.description.table_columns):
            if column.offsets:
                arrays[column], boundaries[position] = self._read_lists(column, first, count)
        return Chunk(
            first=first,
            label=arrays[self.description.label_column][:, 0],
            dense=arrays[self.description.dense_column],
            ids=[arrays[column] for column in self.description.table_columns],
            boundaries=boundaries,
            last=first + count == self.description.samples,
        )

    def _array(self, column, count):
        # Read as bytes, so that `check_labels` finds values other than 0 and 1.
        dtype = np.dtype(np.uint8 if column.dtype == "bool" else column.dtype)
        return self._buffers.array((column.kind, column.first_table), (count, column.width), dtype)

    def _read_column(self, column, first, out):
        """Fills `out` from a column whose files hold no other column."""
        done = 0
        for segment in column.segments:
            here = min(len(out) - done, segment.samples - first)
            if here <= 0:
                first -= segment.samples
                continue
            offset = segment.offset + first * column.stride
            self._read_bytes(segment.path, offset, out[done : done + here])
            done += here
            first = 0
            if done == len(out):
                break

    def _read_lists(self, column, first, count):
        """Returns the ids [values, 1] and the boundaries [count + 1] of a variable feature."""
        key = (column.kind, column.first_table)
        bounds = self._buffers.array((*key, "boundaries"), count + 1, lists.BOUNDARY_DTYPE)
        pieces, done, base = [], 0, 0
        for index, (offsets, values) in enumerate(zip(column.offsets, column.segments)):
            here = min(count - done, offsets.samples - first)
            if here > 0:
                # Overwrites the last boundary of the segment before, which has the same value.
                part = bounds[done : done + here + 1]
                place = offsets.offset + first * lists.BOUNDARY_BYTES
                self._read_bytes(offsets.path, place, part)
                lists.check_boundaries(column, index, first, part)
                pieces.append((values, int(part[0]), int(part[-1] - part[0])))
                part += base
                done, first = done + here, 0
            else:
                first -= offsets.samples
            if done == count:
                break
            base += values.samples
        ids = self._buffers.array(key, (sum(piece[2] for piece in pieces), 1), column.dtype)
        filled = 0
        for values, begin, length in pieces:
            place = values.offset + begin * column.stride
            self._read_bytes(values.path, place, ids[filled : filled + length])
            filled += length
        return ids, bounds

    def _read_records(self, arrays, first, count):
        """Fills the arrays of columns that are fields of one file's records."""
        stride = self.description.label_column.stride
        (path,) = {column.segments[0].path for column in arrays}
        tile = self._buffers.array(path, (_TILE_SAMPLES * stride,), np.uint8)
        for row in range(0, count, _TILE_SAMPLES):
            rows = min(_TILE_SAMPLES, count - row)
            records = tile[: rows * stride]
            self._read_bytes(path, (first + row) * stride, records)
            fields = [(c.segments[0].offset, a[row : row + rows]) for c, a in arrays.items()]
            column_kernels.split_records(records, stride, fields)

    def _read_bytes(self, path, offset, out):
        try:
            found = os.preadv(self._files[path], [out], offset)
        except OSError as error:
            problem = f"read error at byte {offset}: {error.strerror}"
            raise DatasetError.of_path(path, problem) from error
        if found != out.nbytes:
            what = f"truncated while being read: bytes available at offset {offset}"
            raise DatasetError.mismatch(path, what, out.nbytes, found)


def check_labels(chunk: Chunk, path: str) -> None:
    """Raises `DatasetError` unless every label of the chunk, read from `path`, is 0 or 1."""
    wrong = (chunk.label != 0) & (chunk.label != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        sample, found = chunk.first + row, chunk.label[row].item()
        raise DatasetError.mismatch(path, f"sample {sample}: label", "0 or 1", found, sample=sample)


def largest_ids(ids: np.ndarray) -> np.ndarray:
    """Returns the largest id of each column of `ids` [n, width]; negative ids count as huge."""
    unsigned = ids.view(f"u{ids.dtype.itemsize}") if ids.dtype.kind == "i" else ids
    if ids.shape[1] == 1:
        return unsigned.max(axis=0)
    # Reducing 64 parts of the rows first keeps the inner loops long.
    rows = len(ids) // 64 * 64
    worst = unsigned[rows:].max(axis=0, initial=0)
    if rows:
        folded = np.maximum.reduce(unsigned[:rows].reshape(64, rows // 64, -1), axis=0)
        worst = np.maximum(worst, folded.max(axis=0))
    return worst


def check_ids(chunk: Chunk, columns: Sequence[Column], vocab_sizes: Sequence[int]) -> None:
    """Raises `DatasetError` unless every id is inside its table's vocabulary."""
    for index, (column, ids) in enumerate(zip(columns, chunk.ids)):
        if not len(ids):
            continue
        tables = [column.first_table + feature for feature in column.features.feature_of_slots()]
        bounds = np.array([vocab_sizes[table] for table in tables[: ids.shape[1]]], np.int64)
        beyond = largest_ids(ids) >= bounds
        if not beyond.any():
            continue
        position = int(np.argmax(beyond))
        table, values = tables[position], ids[:, position].astype(np.int64)
        row = int(np.argmax((values < 0) | (values >= bounds[position])))
        sample, found = chunk.first + row, values[row]
        if index in chunk.boundaries:
            starts = chunk.boundaries[index] - chunk.boundaries[index][0]
            sample = chunk.first + int(np.searchsorted(starts, row, side="right")) - 1
        raise DatasetError.of_path(
            column.segments[0].path,
            f"table {table}, sample {sample}: id: expected 0 to {bounds[position] - 1}, "
            f"found {found}",
            table=table,
            sample=sample,
            bound=int(bounds[position]),
        )


def check_dense(chunk: Chunk, column: Column) -> None:
    """Raises `DatasetError` unless every transformed dense value is finite."""
    shift = TRANSFORMS[column.transform]
    dense = chunk.dense
    if dense.dtype.kind == "i":
        fine = shift is None or dense.min() + shift > 0
    elif dense.dtype == np.float16:
        # A half is finite unless all its exponent bits are set.
        fine = shift is None and (dense.view(np.uint16) & 0x7FFF).max() < 0x7C00
    else:
        fine = False
    if not fine:
        transformed_dense(chunk, column)


def transformed_dense(chunk: Chunk, column: Column) -> np.ndarray:
    """Returns the chunk's transformed dense values, float32 [n, width], all finite.

    Raises:
        DatasetError: a transformed or stored value is not finite.
    """
    values = apply_transform(chunk.dense, column.transform)
    finite = np.isfinite(values)
    if not finite.all():
        row, position = (int(i) for i in np.argwhere(~finite)[0])
        found = str(chunk.dense[row, position])
        if column.transform != "none":
            found = f"{column.transform} of {found}, which is {values[row, position]}"
        sample = chunk.first + row
        raise DatasetError.of_path(
            column.segments[0].path,
            f"sample {sample}, dense feature {position}: expected a finite number, found {found}",
            sample=sample,
        )
    return values
