"""Counts one column's values in memory: what `counting.make_dictionary` does in SQL, out of core.

Several times faster, where it fits: under the modulo rule in an array of counters, whose size is
known beforehand; under the frequency rule in a hash table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from dataset.preprocessing import counting, dictionaries, native, progress
from dataset.preprocessing.columns import CATEGORICAL_NAMES
from dataset.preprocessing.dictionaries import Rule
from dataset.preprocessing.hash_counters import HashCounters, TableFullError

_BATCH_ROWS = 1 << 16
#: A counter of the array; at the end beside it, per distinct value: number, frequency, order, room
#: to sort.
_COUNTER_BYTES, _VALUE_BYTES = 8, 30
#: What a hash table may take of a process's room: sorting its entries takes twice as much again.
_TABLE_SHARE = 1 / 3
#: More counters than this for each sample take longer to read through than SQL takes in all.
_COUNTERS_PER_SAMPLE = 16
#: A process of its own, without what it counts in.
_PROCESS_BYTES = 400 << 20


def columns_at_once(rule: Rule, rows: int, memory: int, jobs: int) -> tuple[int, int]:
    """Returns how many columns may be counted at a time, and the bytes that each may take.

    Args:
        rule: dictionaries.Rule.
        rows: samples.
        memory: bytes for all.
        jobs: processes at most.

    Returns:
        (columns, bytes); no columns where none fits, where SQL is faster (few samples for so many
        counters), or without the native kernels.
    """
    if native.load() is None or rows < (rule.max_rows or 0) // _COUNTERS_PER_SAMPLE:
        return 0, 0
    if rule.max_rows is None:
        room = memory // jobs - _PROCESS_BYTES
        return (jobs, room) if room > 0 else (0, 0)
    room = _COUNTER_BYTES * rule.max_rows + _VALUE_BYTES * min(rule.max_rows, rows)
    return min(jobs, memory // (room + _PROCESS_BYTES)), room


def make_dictionary(
    paths: Sequence[str], rule: Rule, column: int, folder: str, room: int
) -> dict[str, Any] | None:
    """Writes the dictionary of column `column` (from 0) to `folder`.

    Args:
        paths: Parquet files of the samples.
        rule: dictionaries.Rule.
        column: number of the column.
        folder: the dictionary's folder.
        room: bytes that counting may take, from `columns_at_once`.

    Returns:
        What `counting.make_dictionary` does; None, and nothing is written, where it has no room or
        no native kernels.
    """
    rare_values = rare_samples = 0
    kernels = native.load()
    if kernels is None:
        return None
    try:
        if rule.max_rows is None:
            values, frequencies = _count_hashed(kernels, paths, column, int(room * _TABLE_SHARE))
            rare = frequencies < rule.threshold
            rare_values, rare_samples = int(np.count_nonzero(rare)), int(frequencies[rare].sum())
            values, frequencies = values[~rare], frequencies[~rare]
        else:
            values, frequencies = _count_reduced(kernels, paths, column, rule.max_rows)
    except (TableFullError, MemoryError):
        return None
    order = _order(frequencies)
    values = values[order]
    dictionaries.write_column(dictionaries.column_path(folder, column), values)
    head = counting.most_frequent(values, frequencies[order[: counting.MOST_FREQUENT]])
    return counting.summary(rule, values.size, head, rare_values, rare_samples)


def _batches(paths, column):
    name = CATEGORICAL_NAMES[column]
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=[name], use_threads=False):
                yield batch.column(0)
                progress.advance(0, batch.num_rows)


def _count_reduced(kernels, paths, column, max_rows):
    """Returns (uint32 values modulo max_rows, ascending; int64 frequencies)."""
    counters = np.zeros(max_rows, np.int64)
    for values in _batches(paths, column):
        native.count_values(kernels, values, max_rows, counters)
    values = np.flatnonzero(counters).astype(np.uint32)
    return values, counters[values]


def _count_hashed(kernels, paths, column, most_bytes):
    """Returns (uint32 values, ascending; uint32 frequencies)."""
    counters = HashCounters(kernels, most_bytes)
    for values in _batches(paths, column):
        counters.add(values)
    return counters.counts()


def _order(frequencies):
    """Returns the places of `frequencies` in descending order, equal ones as they were."""
    # Sixteen bits are sorted in linear time; the few values that occur more often, afterwards.
    most = np.iinfo(np.uint16).max
    key = np.uint16(most) - np.minimum(frequencies, most).astype(np.uint16)
    order = np.argsort(key, kind="stable")
    head = order[: np.count_nonzero(key == 0)]
    head[:] = head[np.argsort(-frequencies[head].astype(np.int64), kind="stable")]
    return order
