"""Parts: decoded samples in Parquet files, each of about `PART_BYTES` of text.

A part's rows are in the order of their lines. Every row has the part's number and its own number
within the part, so that engines may shuffle rows.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataset.preprocessing.columns import (
    CATEGORICAL_NAMES,
    DENSE_NAMES,
    LABEL_NAME,
    NAMES,
    PART_NAME,
    ROW_NAME,
    Samples,
)
from storage.atomic import replacing_name
from storage.digests import crc32_of_file
from storage.paths import naming_errors

#: Bytes of uncompressed text per part. A line belongs to the part in which it begins.
PART_BYTES = 256 << 20
#: Rows per part of a Parquet input.
PART_ROWS = 1 << 20
#: Exceeds the number of parts of any input file, so that a part's number determines its file.
PARTS_PER_FILE = 1 << 16
_ROW_GROUP_ROWS = 1 << 17
_SAMPLE_ROWS = 1 << 14


class Part(NamedTuple):
    """A finished part.

    Attributes:
        number: file index * PARTS_PER_FILE + index within the file; sorts in input order.
        path: its Parquet file.
        rows: number of samples.
        bytes, crc32: size and checksum of the file.
    """

    number: int
    path: str
    rows: int
    bytes: int
    crc32: int

    @property
    def file_index(self) -> int:
        """Index of its input file among all input files."""
        return self.number // PARTS_PER_FILE


class PartWriter:
    """Writes one part, batch by batch; keeps at most about two row groups in memory."""

    def __init__(self, folder: str, number: int):
        """Opens part `number` below `folder`; the file gets its final name in `close`."""
        self._number = number
        self._path = os.path.join(folder, f"part-{number:010d}.parquet")
        self._replacing = replacing_name(self._path)
        self._partial = self._replacing.__enter__()
        self._writer = None
        self._batches = []
        self._held = 0
        self._rows = 0

    def append(self, samples: Samples) -> None:
        """Appends samples."""
        if not len(samples):
            return
        self._batches.append(_to_batch(samples, self._number, self._rows))
        self._rows += len(samples)
        self._held += len(samples)
        with naming_errors(self._path):
            if self._writer is None:
                self._writer = _open(self._partial, self._batches[0].schema, samples)
            if self._held >= _ROW_GROUP_ROWS:
                self._flush()

    def _flush(self):
        if self._held and self._writer is not None:
            table = pa.Table.from_batches(self._batches)
            self._writer.write_table(table, row_group_size=_ROW_GROUP_ROWS)
        self._batches, self._held = [], 0

    def close(self) -> Part | None:
        """Completes the file and returns the Part; None if it has no rows."""
        if self._writer is None:
            return None
        with naming_errors(self._path):
            self._flush()
            self._writer.close()
            self._replacing.__exit__(None, None, None)
        crc32 = crc32_of_file(self._path)
        return Part(self._number, self._path, self._rows, os.path.getsize(self._path), crc32)

    def abandon(self, error: BaseException) -> None:
        """Removes the incomplete file, because of `error`."""
        if self._writer is not None:
            with contextlib.suppress(OSError):  # The disk may be full.
                self._writer.close()
        self._replacing.__exit__(type(error), error, error.__traceback__)


def _to_batch(samples, number, first_row):
    rows = len(samples)
    arrays = [
        _to_array(np.full(rows, number, np.int32)),
        _to_array(np.arange(first_row, first_row + rows, dtype=np.int32)),
        _to_array(samples.label),
        *(_to_array(column) for column in samples.dense),
        *(_to_array(*column) for column in zip(samples.values, samples.present)),
    ]
    names = [PART_NAME, ROW_NAME, *NAMES]
    fields = [pa.field(name, array.type) for name, array in zip(names, arrays)]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _to_array(column, present=None):
    """Returns int32 or uint32 `column` as an Arrow array, null where not bool `present`."""
    # pa.array imports pandas where it is installed: half a second per process.
    kind = pa.uint32() if column.dtype == np.uint32 else pa.int32()
    missing, bits = 0, None
    if present is not None:
        missing = column.size - int(np.count_nonzero(present))
        bits = pa.py_buffer(np.packbits(present, bitorder="little")) if missing else None
    data = pa.py_buffer(np.ascontiguousarray(column))
    return pa.Array.from_buffers(kind, column.size, [bits, data], missing)


def _open(path, schema, samples):
    # Dictionary encoding shrinks columns of few values, and only costs time on the others.
    few = [
        name
        for name, column in zip(CATEGORICAL_NAMES, samples.values)
        if np.unique(column[:_SAMPLE_ROWS]).size <= min(len(samples), _SAMPLE_ROWS) // 4
    ]
    return pq.ParquetWriter(
        path,
        schema,
        # Encodings for small numbers take half the time and bytes of a general compressor.
        compression="none",
        # The documentation allows a list of names; the default is a bool.
        use_dictionary=[PART_NAME, LABEL_NAME, *few],  # pyright: ignore[reportArgumentType]
        column_encoding=dict.fromkeys([ROW_NAME, *DENSE_NAMES], "DELTA_BINARY_PACKED"),
        write_statistics=False,
    )
