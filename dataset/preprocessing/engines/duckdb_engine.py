"""DuckDB inside this process: out of core, within its share of the memory limit.

DuckDB counts the columns that do not fit into memory; the others are counted by `direct_counting`.
That, parsing and mapping run in worker processes. Mapping looks ids up in shared hash tables
(`lookup`): same result as the statement `sql.mapping`, several times faster than 26 joins.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dataset.preprocessing import dictionaries, direct_counting, lookup, mapping, parsing, processes
from dataset.preprocessing.columns import CATEGORICAL
from dataset.preprocessing.engines.interface import Engine
from dataset.preprocessing.errors import EngineError, MemoryLimitError
from storage.install_advice import install_command

if TYPE_CHECKING:
    import pyarrow as pa

    from dataset.preprocessing.dictionaries import Rule
    from dataset.preprocessing.mapping import MapTask
    from dataset.preprocessing.options import Options
    from dataset.preprocessing.parsing import Unit
    from dataset.preprocessing.parts import Part
    from dataset.preprocessing.progress import ProgressBar
    from dataset.preprocessing.stage_results import MappedPart

#: DuckDB's share of the limit. The rest is for Python, Arrow and the allocators' free memory.
_DUCKDB_SHARE = 0.7
#: Largest share of the limit for the lookup tables of one pass.
_TABLES_SHARE = 0.5
#: Most memory of a parsing or mapping process; measured 0.25 GiB.
_WORKER_BYTES = 400 << 20
#: Parts of DuckDB's messages about a full disk, before and while it writes.
_FULL_DISK = ("max_temp_directory_size", os.strerror(errno.ENOSPC))
#: Methods that stream a result as Arrow: the first since DuckDB 1.5, the second before.
_ARROW_READERS = ("to_arrow_reader", "fetch_arrow_reader")
#: Memory to build a lookup table, per entry.
_BUILD_BYTES = 56


class DuckDBEngine(Engine):
    """See `Engine`."""

    def __init__(self, options: Options, scratch: str):
        """Opens an in-memory database that spills to `scratch`.

        Raises:
            EngineError: DuckDB is not installed, or does not start.
        """
        try:
            import duckdb
        except ImportError as error:
            problem = f"needs DuckDB; try {install_command('duckdb')}"
            raise EngineError.of_flag("engine", "duckdb", problem) from error
        self._error = duckdb.Error
        self._limit = options.memory_limit
        self._jobs = max(1, min(options.jobs, self._limit // _WORKER_BYTES))
        self._scratch = scratch
        configuration = {
            "memory_limit": f"{int(self._limit * _DUCKDB_SHARE) >> 20}MiB",
            "threads": self._jobs,
            "temp_directory": os.path.join(scratch, "duckdb"),
            # Only ORDER BY determines the order of results.
            "preserve_insertion_order": False,
        }
        try:
            self._database = duckdb.connect(config=configuration)
        except self._error as error:
            raise self._translated(error) from error

    def _execute(self, statement):
        """Returns all rows: DuckDB 2 blocks a connection until all rows are fetched."""
        try:
            return self._database.execute(statement).fetchall()
        except self._error as error:
            raise self._translated(error) from error

    def _translated(self, error):
        reason = " ".join(str(error).split())
        if any(sign in reason for sign in _FULL_DISK):
            # DuckDB advises a setting that users of this program cannot change.
            reason = reason.partition(". ")[0]
            return EngineError(
                f"DuckDB: {reason}: no space for temporary files in {self._scratch}; try a "
                "--work_dir with more",
                flag="work_dir", path=self._scratch,
            )  # fmt: skip
        return EngineError(f"DuckDB: {reason}")

    def parse(
        self, units: Sequence[Unit], folder: str, bar: ProgressBar
    ) -> Iterator[tuple[int, Any]]:
        """Parses in worker processes."""
        tasks = [(unit, folder) for unit in units]
        yield from processes.run(parsing.parse_unit, tasks, self._jobs, bar.show)

    def open_samples(self, parts: Sequence[Part]) -> None:
        """Makes the parts the view `samples`."""
        paths = ", ".join("'" + part.path.replace("'", "''") + "'" for part in parts)
        self._execute(f"CREATE OR REPLACE VIEW samples AS SELECT * FROM read_parquet([{paths}])")

    def count(self, statement: str) -> None:
        """Counts into a temporary table, which DuckDB spills to disk if necessary."""
        self._execute("DROP TABLE IF EXISTS counts")
        self._execute(f"CREATE TEMPORARY TABLE counts AS {statement}")

    def row(self, statement: str) -> tuple[int, ...]:
        """Returns the one row."""
        return tuple(int(value) for value in self._execute(statement)[0])

    def ordered(self, statement: str) -> Iterator[pa.RecordBatch]:
        """Streams the result."""
        try:
            result = self._database.sql(statement)
            read = next(getattr(result, name) for name in _ARROW_READERS if hasattr(result, name))
            yield from read(1 << 17)
        except self._error as error:
            raise self._translated(error) from error

    def make_dictionaries(
        self,
        columns: Sequence[int],
        parts: Sequence[Part],
        rule: Rule,
        folder: str,
        bar: ProgressBar,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Counts several columns at a time in memory, and the columns that do not fit by SQL."""
        rows = sum(part.rows for part in parts)
        at_once, capacity_bytes = direct_counting.columns_at_once(
            rule, rows, self._limit, self._jobs
        )
        left = list(columns)
        if at_once:
            paths = [part.path for part in parts]
            work = [(paths, rule, column, folder, capacity_bytes) for column in columns]

            def show(_, rows_done):
                bar.show(rows_done / rows, rows_done)

            for index, summary in processes.run(
                direct_counting.make_dictionary, work, at_once, show
            ):
                if summary is not None:
                    left.remove(columns[index])
                    yield columns[index], summary
        if left:
            made = len(columns) - len(left)
            yield from super().make_dictionaries(left, parts, rule, folder, bar, made)

    def map(
        self,
        tasks: Sequence[MapTask],
        dictionary: str,
        rule: Rule,
        commit: Callable[[int, MappedPart], None],
        bar: ProgressBar,
    ) -> None:
        """Looks ids up in worker processes, in as few passes over the parts as memory allows.

        Raises:
            MemoryLimitError: a lookup table does not fit the memory limit.
        """
        self._execute("DROP TABLE IF EXISTS counts")  # The lookup tables need its memory.
        folder = tempfile.mkdtemp(prefix="lookup-", dir=self._scratch)
        tables = self._build_tables(dictionary, rule, folder)
        passes = _fit(tables, self._limit * _TABLES_SHARE)
        rows = sum(task.part.rows for task in tasks)
        results: list[dict | None] = [None] * len(tasks)
        for number, group in enumerate(passes):
            last = number == len(passes) - 1
            work = [(task, group, number == 0) for task in tasks]

            def show(_, rows_done, before=number * rows):
                bar.show((before + rows_done) / len(passes), before + rows_done)

            for index, result in processes.run(mapping.map_part, work, self._jobs, show):
                earlier = results[index]
                if earlier is not None:
                    counts = zip(result["without_id"], earlier["without_id"])
                    result["without_id"] = [now + before for now, before in counts]
                results[index] = result
                if last:
                    commit(index, result)
        shutil.rmtree(folder)

    def close(self) -> None:
        """Closes the database."""
        self._database.close()
        shutil.rmtree(os.path.join(self._scratch, "duckdb"), ignore_errors=True)

    def _build_tables(self, dictionary, rule, folder):
        sizes = [dictionaries.load_column(dictionary, i).size for i in range(CATEGORICAL)]
        largest = max(sizes)
        at_once = int(self._limit * _DUCKDB_SHARE) // max(1, largest * _BUILD_BYTES)
        if at_once == 0 or lookup.table_bytes(largest) > self._limit * _TABLES_SHARE:
            needed = largest * _BUILD_BYTES / _DUCKDB_SHARE
            problem = f"a dictionary with {largest} values needs {needed / 2**30:.1f} GiB"
            raise MemoryLimitError.of_flag("memory_limit", self._limit, problem, expected=needed)
        tables = [
            mapping.Table(i, os.path.join(folder, f"{i}.npy"), size) for i, size in enumerate(sizes)
        ]
        work = [(dictionary, table, rule.first_id) for table in tables]
        jobs = min(self._jobs, at_once)
        for _ in processes.run(_build_table, work, jobs, lambda *_: None):
            pass
        return tables


def _build_table(dictionary, table, first_id):
    values = dictionaries.load_column(dictionary, table.column)
    lookup.write(table.path, values, first_id)


def _fit(tables, capacity_bytes):
    """Partitions tables, in order, into groups of at most `capacity_bytes`."""
    groups, held = [[]], 0
    for table in tables:
        size = lookup.table_bytes(table.entries)
        if groups[-1] and held + size > capacity_bytes:
            groups.append([])
            held = 0
        groups[-1].append(table)
        held += size
    return [tuple(group) for group in groups]
