"""What preprocessing asks of an engine."""

from __future__ import annotations

import abc

from dataset.preprocessing import counting


class Engine(abc.ABC):
    """Runs tasks and the statements of `sql`; a context manager."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @abc.abstractmethod
    def parse(self, units, folder, bar):
        """Yields (index, result) of `parsing.parse_unit` for each unit, in any order.

        Args:
            units: list of Unit.
            folder: where the parts go.
            bar: ProgressBar.
        """

    @abc.abstractmethod
    def open_samples(self, parts):
        """Makes the Parquet files of `parts` the table `samples`."""

    @abc.abstractmethod
    def count(self, statement):
        """Makes the result of `statement` the table `counts`, replacing the one before."""

    @abc.abstractmethod
    def row(self, statement):
        """Returns the one row of `statement` as a tuple of int."""

    @abc.abstractmethod
    def ordered(self, statement):
        """Yields the rows of `statement`, in its order, as Arrow record batches."""

    def make_dictionaries(self, columns, parts, rule, folder, bar, before=0):
        """Yields (column, summary) of `counting.make_dictionary` for each column, in any order.

        Args:
            columns: numbers of columns, from 0.
            parts: list of Part, all samples.
            rule: dictionaries.Rule.
            folder: the dictionary's folder.
            bar: ProgressBar over columns.
            before: columns that the bar shows already.
        """
        rows = sum(part.rows for part in parts)
        self.open_samples(parts)
        for done, column in enumerate(columns, start=before + 1):
            yield column, counting.make_dictionary(self, rule, column, folder)
            bar.show(done, done * rows)

    @abc.abstractmethod
    def map(self, tasks, dictionary, rule, commit, bar):
        """Writes the records of every part.

        Args:
            tasks: list of MapTask.
            dictionary: folder of the dictionary.
            rule: its Rule.
            commit: called with (index of the task, `MapTask.result`) once that part's records are
                complete and on disk.
            bar: ProgressBar.
        """

    @abc.abstractmethod
    def close(self):
        """Ends its processes and removes its temporary files."""
