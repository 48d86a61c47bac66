"""Turns one part into records: looks its values up in the columns' lookup tables."""

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
from dataset.preprocessing.raw_records import RegionWriter, new_fields
from dataset.preprocessing.splits import Destination

_BATCH_ROWS = 1 << 15


class MapTask(NamedTuple):
    """Samples of one part, and where their records go.

    Attributes:
        part: the Part.
        destinations: in row order.
        folder: folder of the destination files, which are named `<file>.partial`.
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
        """Returns the result of a finished task, as JSON types."""
        return {"crc32": list(crc32s), "without_id": [int(n) for n in without_id]}


class Table(NamedTuple):
    """The lookup table of one column: its file and number of entries."""

    column: int
    path: str
    entries: int


@functools.lru_cache(maxsize=1)
def _open(tables):
    # Once per process and pass. The folder of the tables is new in every run.
    return [lookup.Lookup.open(table.path, table.entries) for table in tables]


def map_part(task: MapTask, tables: tuple[Table, ...], first_pass: bool) -> dict[str, Any]:
    """Writes the records of a part with the ids of the columns that `tables` covers.

    Args:
        task: the part.
        tables: the lookup tables.
        first_pass: write label and dense counts too; otherwise add ids to the records on disk.

    Returns:
        `MapTask.result`, with counts of the covered columns and 0 for the others.
    """
    without_id = np.zeros(CATEGORICAL, np.int64)
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
                    ids = fields[1 + DENSE + table.column]
                    without_id[table.column] += native.find_ids(
                        values, task.max_rows, ids_of.table, ids_of.slots, ids
                    )
                writer.write(native.to_records(fields))
            row += batch.num_rows
            progress.advance(0, batch.num_rows)
        for writer in writers:
            writer.sync()
        return task.result((writer.crc32 for writer in writers), without_id)


def _start(batch, negatives):
    dense = [_numbers(batch.column(name)) for name in DENSE_NAMES]
    return new_fields(_numbers(batch.column(LABEL_NAME)), dense, negatives)


def _numbers(column):
    """Returns the values of an Arrow int32 array without nulls, as a view."""
    # For np.asarray, pyarrow imports pandas: half a second per process.
    values = np.frombuffer(column.buffers()[1], np.int32)
    return values[column.offset : column.offset + len(column)]
