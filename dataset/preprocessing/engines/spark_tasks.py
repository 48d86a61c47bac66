"""Tasks on Spark's executors besides SQL: parsing units, writing records."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset.preprocessing import native
from dataset.preprocessing.columns import (
    CATEGORICAL,
    CATEGORICAL_NAMES,
    DENSE,
    DENSE_NAMES,
    LABEL_NAME,
    PART_NAME,
    ROW_NAME,
)
from dataset.preprocessing.errors import PreprocessError
from dataset.preprocessing.raw_records import RegionWriter, new_fields

if TYPE_CHECKING:
    from dataset.preprocessing.mapping import MapTask


def use_shipped_library() -> None:
    """Loads the C++ kernels from the file that the driver added with `SparkContext.addFile`."""
    from pyspark import SparkFiles

    native.PATH = Path(SparkFiles.get(native.PATH.name))


class Parse:
    """Parses one unit; returns an error as a value, so that the driver can raise it unchanged."""

    def __init__(self, folder: str):
        """Takes the folder for the parts."""
        self._folder = folder

    def __call__(self, unit):
        """Returns (None, result) or (the error, None)."""
        from dataset.preprocessing.parsing import parse_unit

        use_shipped_library()
        try:
            return None, parse_unit(unit, self._folder)
        except (PreprocessError, OSError) as error:
            return error, None


class Write:
    """Writes the records of mapped parts; an argument of `DataFrame.mapInArrow`."""

    #: One row for each written part.
    SCHEMA = f"{PART_NAME} int, crc32 array<bigint>, without_id array<bigint>"

    def __init__(self, tasks: Sequence[MapTask]):
        """Takes the MapTasks of all parts."""
        self._tasks = {task.part.number: task for task in tasks}

    def __call__(self, batches):
        """Takes mapped rows by ascending part and row; yields batches of `SCHEMA`."""
        use_shipped_library()
        current = None
        for batch in batches:
            numbers = np.asarray(batch.column(PART_NAME))
            bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), numbers.size]
            for begin, end in zip(bounds, bounds[1:]):
                if begin == end:
                    continue
                number = int(numbers[begin])
                if current is None or current.number != number:
                    if current is not None:
                        yield current.finish()
                    current = _PartInProgress(self._tasks[number])
                current.write(batch.slice(begin, end - begin))
        if current is not None:
            yield current.finish()


class _PartInProgress:
    """A part whose rows arrive in order."""

    def __init__(self, task):
        self.number = task.part.number
        self._task = task
        self._row = 0
        self._without_id = np.zeros(CATEGORICAL, np.int64)
        self._files = contextlib.ExitStack()
        self._writers = [
            self._files.enter_context(RegionWriter(task.path(d), d.record))
            for d in task.destinations
        ]

    def write(self, batch):
        rows = np.asarray(batch.column(ROW_NAME))
        if not np.array_equal(rows, np.arange(self._row, self._row + rows.size)):
            expected = f"rows {self._row} to {self._row + rows.size - 1} in order"
            problem = f"expected {expected}, found {rows[0]} to {rows[-1]}"
            raise PreprocessError.of_path(self._task.part.path, problem)
        for destination, writer in zip(self._task.destinations, self._writers):
            begin = max(destination.begin - self._row, 0)
            end = min(destination.end - self._row, rows.size)
            if begin < end:
                writer.write(self._records(batch.slice(begin, end - begin)))
        self._row += rows.size

    def _records(self, batch):
        dense = [np.asarray(batch.column(name)) for name in DENSE_NAMES]
        label = np.asarray(batch.column(LABEL_NAME))
        fields = new_fields(label, dense, self._task.negatives)
        for column, name in enumerate(CATEGORICAL_NAMES):
            ids = batch.column(name)
            self._without_id[column] += ids.null_count
            fields[1 + DENSE + column] = np.asarray(pc.fill_null(ids, 0))
        return native.to_records(fields)

    def finish(self):
        """Waits until the part is on disk; returns its row of `SCHEMA`."""
        if self._row != self._task.part.rows:
            problem = f"expected {self._task.part.rows} rows, found {self._row}"
            raise PreprocessError.of_path(self._task.part.path, problem)
        for writer in self._writers:
            writer.sync()
        self._files.close()
        return pa.RecordBatch.from_pydict(
            {
                PART_NAME: pa.array([self.number], pa.int32()),
                "crc32": pa.array([[w.crc32 for w in self._writers]], pa.list_(pa.int64())),
                "without_id": pa.array([self._without_id.tolist()], pa.list_(pa.int64())),
            }
        )
