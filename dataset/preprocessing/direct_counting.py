"""Counts one column's values in an array of counters, where the modulo rule makes that possible.

What `counting.make_dictionary` does in SQL, without a hash table of groups: several times faster,
in memory that is known beforehand.
"""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from dataset.preprocessing import counting, dictionaries, native, progress
from dataset.preprocessing.columns import CATEGORICAL_NAMES

_BATCH_ROWS = 1 << 16
#: A counter; at the end beside it, per distinct value: number, frequency, order, room to sort.
_COUNTER_BYTES, _VALUE_BYTES = 8, 30


def needed_bytes(rule, rows):
    """Returns the most memory that a column of `rows` samples takes, besides a process's own.

    Args:
        rule: dictionaries.Rule.
        rows: samples.

    Returns:
        Bytes; None where counting this way is not possible (frequency rule, no native kernels).
    """
    if rule.max_rows is None or native.load() is None:
        return None
    return _COUNTER_BYTES * rule.max_rows + _VALUE_BYTES * min(rule.max_rows, rows)


def make_dictionary(paths, rule, column, folder):
    """Writes the dictionary of column `column` (from 0) to `folder`.

    Args:
        paths: Parquet files of the samples.
        rule: dictionaries.Rule with `max_rows`.
        column: number of the column.
        folder: the dictionary's folder.

    Returns:
        What `counting.make_dictionary` does.
    """
    counters = _count(paths, column, rule.max_rows)
    values = np.flatnonzero(counters).astype(np.uint32)
    frequencies = counters[values]
    del counters  # Its memory is for sorting now.
    order = _order(frequencies)
    values = values[order]
    dictionaries.write_column(dictionaries.column_path(folder, column), values)
    head = counting.most_frequent(values, frequencies[order[: counting.MOST_FREQUENT]])
    return counting.summary(rule, values.size, head)


def _count(paths, column, max_rows):
    kernels, name = native.load(), CATEGORICAL_NAMES[column]
    counters = np.zeros(max_rows, np.int64)
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=[name], use_threads=False):
                native.count_values(kernels, batch.column(0), max_rows, counters)
                progress.advance(0, batch.num_rows)
    return counters


def _order(frequencies):
    """Returns the places of int64 `frequencies` in descending order, equal ones as they were."""
    # Sixteen bits are sorted in linear time; the few values that occur more often, afterwards.
    most = np.iinfo(np.uint16).max
    key = np.uint16(most) - np.minimum(frequencies, most).astype(np.uint16)
    order = np.argsort(key, kind="stable")
    head = order[: np.count_nonzero(key == 0)]
    head[:] = head[np.argsort(-frequencies[head], kind="stable")]
    return order
