"""Spark: runs the statements of `sql`, parsing and writing on a cluster's executors."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataset.preprocessing import dictionaries, native, sql
from dataset.preprocessing.columns import CATEGORICAL
from dataset.preprocessing.engines import spark_tasks
from dataset.preprocessing.engines.interface import Engine
from dataset.preprocessing.errors import EngineError
from storage.digests import crc32_of_file
from storage.install_advice import install_command

if TYPE_CHECKING:
    from dataset.preprocessing.dictionaries import Rule
    from dataset.preprocessing.mapping import MapTask
    from dataset.preprocessing.options import Options
    from dataset.preprocessing.parsing import Unit
    from dataset.preprocessing.parts import Part
    from dataset.preprocessing.progress import ProgressBar
    from dataset.preprocessing.stage_results import MappedPart

#: Share of the memory limit for a JVM's heap. The rest is for Python workers and the JVM's other
#: memory.
_HEAP_SHARE = 0.6
_DICTIONARY_PIECE = 1 << 20


class SparkEngine(Engine):
    """See `Engine`."""

    def __init__(self, options: Options, scratch: str):
        """Starts a Spark session, or joins the session of this process.

        Raises:
            EngineError: PySpark, pandas or Java is missing, or Spark does not start.
        """
        try:
            import pandas  # noqa: F401, required by PySpark's mapInArrow
            import pyspark
            from pyspark.sql import SparkSession
        except ImportError as error:
            advice = install_command("pyspark", "pandas")
            problem = f"needs PySpark and pandas ({error}); try {advice}"
            raise EngineError.of_flag("engine", "spark", problem) from error
        java = os.environ.get("JAVA_HOME")
        if not shutil.which("java", path=os.path.join(java, "bin") if java else None):
            where = f"JAVA_HOME={java} has no bin/java" if java else "no java on the PATH"
            versions = "8, 11 or 17" if pyspark.__version__.startswith("3.") else "17 or later"
            problem = f"expected Java {versions}, found {where}"
            raise EngineError.of_flag("engine", "spark", problem, expected=versions, path=java)
        self._scratch = os.path.join(scratch, "spark")
        os.makedirs(self._scratch, exist_ok=True)
        heap = f"{int(options.memory_limit * _HEAP_SHARE) >> 20}m"
        settings = {
            "spark.app.name": "preprocess",
            "spark.driver.memory": heap,
            "spark.executor.memory": heap,
            "spark.local.dir": self._scratch,
            "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
            **options.spark_conf,
        }
        master = options.master or f"local[{options.jobs}]"
        if master.startswith("local"):
            # The workers run this Python, not the first python3 on the PATH.
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        # `builder` is a class property, made by a descriptor that pyright does not know.
        builder = SparkSession.builder.master(master)  # pyright: ignore[reportAttributeAccessIssue]
        for key, value in settings.items():
            builder = builder.config(key, value)
        joined = SparkSession.getActiveSession() is not None
        try:
            self._spark = builder.getOrCreate()
        except Exception as error:  # Py4J and the JVM raise many types for a wrong setting.
            problem = f"Spark does not start: {_reason(error)}"
            raise EngineError.of_flag("engine", "spark", problem) from error
        self._stops = not joined
        self._counts = None
        context, packages = self._spark.sparkContext, _zip_packages(self._scratch)
        self._try(lambda: context.addPyFile(packages))
        self._try(lambda: context.addFile(str(native.PATH)))

    def parse(
        self, units: Sequence[Unit], folder: str, bar: ProgressBar
    ) -> Iterator[tuple[int, Any]]:
        """Parses on the executors, four units per core at a time."""
        context = self._spark.sparkContext
        step = 4 * context.defaultParallelism
        done = rows = 0
        for begin in range(0, len(units), step):
            group = units[begin : begin + step]
            tasks = context.parallelize(group, len(group))
            function = spark_tasks.Parse(folder)
            for index, (error, result) in enumerate(self._try(tasks.map(function).collect)):
                if error is not None:
                    raise error
                assert result is not None  # Either error or result is None.
                done += group[index].input_bytes
                rows += result["lines"]
                bar.show(done, rows)
                yield begin + index, result

    def open_samples(self, parts: Sequence[Part]) -> None:
        """Makes the parts the view `samples`."""
        frame = self._try(lambda: self._spark.read.parquet(*(part.path for part in parts)))
        frame.createOrReplaceTempView("samples")

    def count(self, statement: str) -> None:
        """Counts into a cached table, which Spark spills to disk if necessary."""
        self._drop_counts()
        self._counts = self._try(lambda: self._spark.sql(statement).persist())
        self._counts.createOrReplaceTempView("counts")

    def _drop_counts(self):
        if self._counts is not None:
            self._counts.unpersist(blocking=True)
            self._counts = None

    def row(self, statement: str) -> tuple[int, ...]:
        """Returns the one row."""
        row = self._try(lambda: self._spark.sql(statement).collect())[0]
        return tuple(int(value) for value in row)

    def ordered(self, statement: str) -> Iterator[pa.RecordBatch]:
        """Sorts on the executors into Parquet files, whose names sort in the order of the rows."""
        folder = os.path.join(self._scratch, "ordered")
        self._try(lambda: self._spark.sql(statement).write.mode("overwrite").parquet(folder))
        for path in sorted(Path(folder).glob("part-*.parquet")):
            with pq.ParquetFile(path) as file:
                # Arrow does not read files without row groups: those of empty partitions.
                if file.num_row_groups:
                    yield from file.iter_batches(1 << 17)
        shutil.rmtree(folder)

    def map(
        self,
        tasks: Sequence[MapTask],
        dictionary: str,
        rule: Rule,
        commit: Callable[[int, MappedPart], None],
        bar: ProgressBar,
    ) -> None:
        """Joins the dictionaries on the executors, one input file's parts at a time."""
        self._drop_counts()
        for column in range(CATEGORICAL):
            path = os.path.join(self._scratch, f"dictionary_{column + 1}.parquet")
            _write_dictionary(dictionaries.load_column(dictionary, column), rule.first_id, path)
            view = f"dictionary_{column + 1}"
            self._spark.read.parquet(path).createOrReplaceTempView(view)
        rows = 0
        for group in _by_file(tasks):
            self.open_samples([tasks[index].part for index in group])
            numbers = {tasks[index].part.number: index for index in group}
            frame = (
                self._spark.sql(sql.mapping(rule.max_rows))
                .repartition(len(group), "part_id")
                .sortWithinPartitions("part_id", "row_id")
            )
            write = spark_tasks.Write([tasks[index] for index in group])
            written = frame.mapInArrow(write, spark_tasks.Write.SCHEMA)
            for result in self._try(written.collect):
                index = numbers.pop(result.part_id)
                commit(index, tasks[index].result(result.crc32, result.without_id))
                rows += tasks[index].part.rows
                bar.show(rows, rows)
            if numbers:
                missing = sorted(numbers)
                raise EngineError(f"Spark: no result for the parts {missing}", found=missing)

    def close(self) -> None:
        """Ends the session if this engine started it; removes temporary files."""
        self._drop_counts()
        if self._stops:
            self._spark.stop()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _try(self, action):
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        try:
            return action()
        except (Py4JError, PySparkException) as error:
            reason = _reason(error)
            path = None
            if _FULL_DISK in reason:  # Java's message does not name the folder.
                path = self._scratch
                reason += f"; Spark's temporary files are in {path}"
            raise EngineError(f"Spark: {reason}", path=path) from error


_CAUSED_BY = "Caused by: "
_NAMES_ERROR = re.compile(rf"({_CAUSED_BY})?([\w.]+\.)?\w*(Error|Exception)\b")
_FULL_DISK = os.strerror(errno.ENOSPC)


def _reason(error):
    """Returns the line with the reason of an error whose text has two languages' tracebacks."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if _NAMES_ERROR.match(line)]
    reason = (named or lines or [repr(error)])[-1]
    return reason[len(_CAUSED_BY) :] if reason.startswith(_CAUSED_BY) else reason


def _by_file(tasks):
    """Returns lists of task indices, one list for each input file."""
    groups = {}
    for index, task in enumerate(tasks):
        groups.setdefault(task.part.file_index, []).append(index)
    return list(groups.values())


def _zip_packages(folder):
    """Zips the packages that executors import; returns the zip's path."""
    root = Path(__file__).resolve().parents[3]
    path = os.path.join(folder, "packages.zip")
    with zipfile.ZipFile(path, "w") as file:
        for package in ("dataset", "ops", "storage"):
            for source in sorted((root / package).rglob("*.py")):
                file.write(source, source.relative_to(root))
    # A session that an earlier engine joined may have another version under the same name.
    named = os.path.join(folder, f"packages-{crc32_of_file(path):08x}.zip")
    os.replace(path, named)
    return named


def _write_dictionary(values, first_id, path):
    schema = pa.schema([("value", pa.int64()), ("id", pa.int32())])
    with pq.ParquetWriter(path, schema) as writer:
        # Without its one empty batch, an empty dictionary has no schema for Spark.
        for begin in range(0, max(len(values), 1), _DICTIONARY_PIECE):
            piece = np.asarray(values[begin : begin + _DICTIONARY_PIECE]).astype(np.int64)
            ids = np.arange(begin + first_id, begin + first_id + piece.size, dtype=np.int32)
            writer.write_batch(pa.record_batch([pa.array(piece), pa.array(ids)], schema=schema))
