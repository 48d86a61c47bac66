"""Turns one part into records: its values become ids, found in the columns' lookup tables."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from dataset.preprocessing import lookup, native, progress
from dataset.preprocessing.columns import (
    CATEGORICAL,
    CATEGORICAL_NAMES,
    DENSE,
    DENSE_NAMES,
    LABEL_NAME,
)
from dataset.preprocessing.parts import Part
from dataset.preprocessing.raw_records import RegionWriter, new_fields, set_ids, to_records
from dataset.preprocessing.splits import Destination

_BATCH_ROWS = 1 << 15


class MapTask(NamedTuple):
    """Samples of one part on their way to records.

    Attributes:
        part: the Part.
        destinations: Destinations, in row order.
        folder: where the destination files lie, under the names `<file>.partial`.
        negatives: "zero" or "keep".
        max_rows: M of the modulo rule, or None.
    """

    part: Part
    destinations: tuple[Destination, ...]
    folder: str
    negatives: str
    max_rows: int | None

    def path(self, destination: Destination) -> str:
        """Returns the file that a destination is written to."""
        return f"{self.folder}/{destination.file}.partial"

    def result(self, crc32s: Iterable[int], without_id: Iterable[int]) -> dict[str, Any]:
        """Returns what a finished task gives, of JSON types."""
        return {"crc32": list(crc32s), "without_id": [int(n) for n in without_id]}


class Table(NamedTuple):
    """The lookup table of one column: file, and the entries in it."""

    column: int
    path: str
    entries: int


@functools.lru_cache(maxsize=1)
def _open(tables):
    # Mapped once per process and pass; the folder of the tables is new in every run.
    return [lookup.Lookup.open(table.path, table.entries) for table in tables]


def map_part(task: MapTask, tables: tuple[Table, ...], first_pass: bool) -> dict[str, Any]:
    """Writes the records of a part with the ids of the columns that `tables` covers.

    Args:
        task: MapTask.
        tables: tuple of Table.
        first_pass: write label and dense counts; otherwise fill ids into records on disk.

    Returns:
        `MapTask.result`, with counts for the covered columns (0 elsewhere).
    """
    without_id = np.zeros(CATEGORICAL, np.int64)
    kernels = native.load()
    lookups = _open(tables)
    names = [CATEGORICAL_NAMES[table.column] for table in tables]
    if first_pass:
        names += [LABEL_NAME, *DENSE_NAMES]
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(RegionWriter(task.path(d), d.record)) for d in task.destinations
        ]
        file = stack.enter_context(pq.ParquetFile(task.part.path))
        row = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=names, use_threads=False):
            for writer, destination in zip(writers, task.destinations):
                begin = max(destination.begin - row, 0)
                end = min(destination.end - row, batch.num_rows)
                if begin >= end:
                    continue
                piece = batch.slice(begin, end - begin)
                if first_pass:
                    fields = _start(piece, task.negatives)
                else:
                    fields = np.ascontiguousarray(writer.read(end - begin).T)
                for table, ids_of in zip(tables, lookups):
                    values = piece.column(CATEGORICAL_NAMES[table.column])
                    without = _fill_ids(kernels, fields, table.column, values, ids_of, task)
                    without_id[table.column] += without
                writer.write(_to_records(kernels, fields))
            row += batch.num_rows
            progress.advance(0, batch.num_rows)
        for writer in writers:
            writer.sync()
        return task.result((writer.crc32 for writer in writers), without_id)


def _start(batch, negatives):
    dense = [_numbers(batch.column(name), np.int32) for name in DENSE_NAMES]
    return new_fields(_numbers(batch.column(LABEL_NAME), np.int32), dense, negatives)


def _numbers(column, dtype):
    """Returns an Arrow array's values, whatever lies under its nulls, as a view."""
    # Not by np.asarray, for which pyarrow imports pandas: half a second per process.
    values = np.frombuffer(column.buffers()[1], dtype)
    return values[column.offset : column.offset + len(column)]


def _fill_ids(kernels, fields, column, values, ids_of, task):
    """Fills in the ids of a column's Arrow `values`; returns how many have none."""
    if kernels is None:
        return set_ids(fields, column, _find_ids(ids_of, values, task.max_rows))
    ids = fields[1 + DENSE + column]
    return native.find_ids(kernels, values, task.max_rows, ids_of.table, ids_of.slots, ids)


def _to_records(kernels, fields):
    return to_records(fields) if kernels is None else native.to_records(kernels, fields)


def _find_ids(ids_of, column, max_rows):
    values = _numbers(column, np.uint32)
    if not column.null_count:
        return ids_of.find(values if max_rows is None else values % np.uint32(max_rows))
    missing = np.asarray(column.is_null())
    # What lies under a null is not defined.
    values = np.where(missing, np.uint32(0), values)
    if max_rows is not None:
        return ids_of.find(values % np.uint32(max_rows))
    ids = ids_of.find(values)
    ids[missing] = -1
    return ids
