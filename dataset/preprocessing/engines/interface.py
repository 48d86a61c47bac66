"""The interface of SQL engines."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dataset.preprocessing import counting

if TYPE_CHECKING:
    import pyarrow as pa

    from dataset.preprocessing.dictionaries import Rule
    from dataset.preprocessing.mapping import MapTask
    from dataset.preprocessing.parsing import Unit
    from dataset.preprocessing.parts import Part
    from dataset.preprocessing.progress import ProgressBar
    from dataset.preprocessing.stage_results import MappedPart


class Engine(abc.ABC):
    """Runs the stages of preprocessing and the statements of `sql`; a context manager."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @abc.abstractmethod
    def parse(
        self, units: Sequence[Unit], folder: str, bar: ProgressBar
    ) -> Iterator[tuple[int, Any]]:
        """Yields (index, result) of `parsing.parse_unit` for each unit, in any order.

        Args:
            units: units of input.
            folder: folder for the parts.
            bar: updated as units finish.
        """

    @abc.abstractmethod
    def open_samples(self, parts: Sequence[Part]) -> None:
        """Makes the Parquet files of `parts` the table `samples`."""

    @abc.abstractmethod
    def count(self, statement: str) -> None:
        """Makes the result of `statement` the table `counts`, replacing an earlier one."""

    @abc.abstractmethod
    def row(self, statement: str) -> tuple[int, ...]:
        """Returns the one row of `statement` as a tuple of int."""

    @abc.abstractmethod
    def ordered(self, statement: str) -> Iterable[pa.RecordBatch]:
        """Yields the rows of `statement`, in its order, as Arrow record batches."""

    def make_dictionaries(
        self,
        columns: Sequence[int],
        parts: Sequence[Part],
        rule: Rule,
        folder: str,
        bar: ProgressBar,
        before: int = 0,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (column, summary) of `counting.make_dictionary` for each column, in any order.

        Args:
            columns: numbers of columns, from 0.
            parts: the parts with all samples.
            rule: how values become ids.
            folder: the dictionary's folder.
            bar: counts columns.
            before: number of columns that the bar already shows.
        """
        rows = sum(part.rows for part in parts)
        self.open_samples(parts)
        for done, column in enumerate(columns, start=before + 1):
            yield column, counting.make_dictionary(self, rule, column, folder)
            bar.show(done, done * rows)

    @abc.abstractmethod
    def map(
        self,
        tasks: Sequence[MapTask],
        dictionary: str,
        rule: Rule,
        commit: Callable[[int, MappedPart], None],
        bar: ProgressBar,
    ) -> None:
        """Writes the records of every part.

        Args:
            tasks: one for each part.
            dictionary: folder of the dictionary.
            rule: the dictionary's rule.
            commit: called with (index of the task, `MapTask.result`) once that part's records are
                complete and on disk.
            bar: counts rows.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Ends its processes and removes its temporary files."""
