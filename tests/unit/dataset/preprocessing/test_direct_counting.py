"""Counting in memory against Python's Counter, and its dictionaries against those of SQL."""

import collections
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset.preprocessing import counting, dictionaries, direct_counting, native, parts
from dataset.preprocessing.columns import CATEGORICAL_NAMES
from dataset.preprocessing.engines import open_engine
from dataset.preprocessing.hash_counters import HashCounters, TableFullError
from tests.support.dataset.preprocessing.fixtures import run_options


def _random_columns(rng, values):
    """Yields Arrow columns of `values`, and slices whose bits begin in the middle of a byte."""
    for rows in (1, 127, 128, 129, 1000):
        for missing in (0.0, 0.3, 1.0):
            column = pa.array(rng.choice(values, rows), mask=rng.random(rows) < missing)
            yield from (column, column[3:], column[13 : rows - 1])


def _write_part(path, columns):
    """Writes uint32 columns, null where negative, as a Parquet part; returns it."""
    arrays = {
        name: pa.array(np.maximum(values, 0).astype(np.uint32), mask=values < 0)
        for name, values in columns.items()
    }
    pq.write_table(pa.table(arrays), path)
    return parts.Part(0, str(path), len(next(iter(columns.values()))), 0, 0)


def _ordered(counted):
    """Returns the keys of a Counter in the order of ids."""
    return sorted(counted, key=lambda value: (-counted[value], value))


@pytest.mark.parametrize("max_rows", [1, 7, 1000, 3_000_001])
def test_count_values_equals_a_counter(rng, max_rows):
    values = np.array([0, 1, 2**32 - 1, *rng.integers(2**32, size=200)], np.uint32)
    counters = np.zeros(max_rows, np.int64)
    expected = collections.Counter()
    for column in _random_columns(rng, values):
        native.count_values(column, max_rows, counters)
        expected.update((value or 0) % max_rows for value in column.to_pylist())
    assert {int(i): int(counters[i]) for i in np.flatnonzero(counters)} == expected


@pytest.mark.parametrize("distinct", [1, 200, 30_000])
def test_hash_counters_equal_a_counter_while_they_grow(rng, distinct):
    counters = HashCounters(1 << 20)
    values = rng.integers(2**32, size=distinct, dtype=np.uint32)
    expected = collections.Counter(values.tolist())
    counters.add(pa.array(values))
    for column in _random_columns(rng, np.append(values, np.array([0, 2**32 - 1], np.uint32))):
        counters.add(column)
        expected.update(value for value in column.to_pylist() if value is not None)
    found, counts = counters.counts()
    assert found.dtype == counts.dtype == np.uint32
    assert found.tolist() == sorted(expected)
    assert counts.tolist() == [expected[value] for value in sorted(expected)]


def test_hash_counters_refuse_to_exceed_their_memory():
    counters = HashCounters(1 << 17)  # 16,384 slots, of which seven tenths may be used.
    counters.add(pa.array(range(11_468), pa.uint32()))
    counters.add(pa.array([5] * 1000, pa.uint32()))
    with pytest.raises(TableFullError, match="131072"):
        counters.add(pa.array([11_468], pa.uint32()))
    with pytest.raises(TableFullError):
        HashCounters(100)


def test_hash_counters_refuse_a_count_beyond_32_bits():
    counters = HashCounters(1 << 20)
    counters.add(pa.array([77], pa.uint32()))
    (slot,) = np.flatnonzero(counters._table)
    counters._table[slot] = (77 << 32) + 2**32 - 2
    counters.add(pa.array([77], pa.uint32()))
    with pytest.raises(TableFullError):
        counters.add(pa.array([77], pa.uint32()))
    assert [part.tolist() for part in counters.counts()] == [[77], [2**32 - 1]]


def test_dictionary_is_ordered_by_frequency_then_value(rng, tmp_path):
    """Including frequencies that exceed 16 bits."""
    frequent = rng.permutation(1000)[:6].tolist()
    often = [65534, 65535, 65536, 65536, 70000, 70000]
    values = np.concatenate([np.repeat(frequent, often), rng.integers(1000, 3000, 30_000)])
    rng.shuffle(values)
    # Different values that are equal modulo 5000.
    values = values + 5000 * rng.integers(0, 1000, values.size)
    paths = []
    for number, piece in enumerate(np.array_split(values, 3)):
        columns = dict.fromkeys(CATEGORICAL_NAMES[:2], piece)
        paths.append(_write_part(tmp_path / f"{number}.parquet", columns).path)
    rule = dictionaries.Rule(max_rows=5000)
    summary = direct_counting.make_dictionary(paths, rule, 1, str(tmp_path), 0)
    counted = collections.Counter((values % 5000).tolist())
    expected = _ordered(counted)
    assert dictionaries.load_column(str(tmp_path), 1).tolist() == expected
    assert summary["most_frequent"] == [[f"{v:08x}", counted[v]] for v in expected[:10]]
    assert summary["vocab_size"] == summary["distinct"] == len(counted)
    assert summary["rare_values"] == summary["rare_samples"] == 0


@pytest.mark.parametrize(
    "rule", [{"max_rows": 77}, {"threshold": 1}, {"threshold": 3}, {"threshold": 1000}], ids=str
)
def test_dictionaries_equal_those_of_sql(rng, tmp_path, rule):
    columns = {
        name: rng.integers(-1, 150, 500) * (1 + rng.integers(2, size=500))
        for name in CATEGORICAL_NAMES[:3]
    }
    part, rule = _write_part(tmp_path / "part.parquet", columns), dictionaries.Rule(**rule)
    folders = [tmp_path / "memory", tmp_path / "sql"]
    for folder in folders:
        folder.mkdir()
    with open_engine(run_options(tmp_path, train_days=(0,)), str(tmp_path)) as engine:
        engine.open_samples([part])
        for i in range(3):
            found = direct_counting.make_dictionary([part.path], rule, i, str(folders[0]), 1 << 30)
            assert found == counting.make_dictionary(engine, rule, i, str(folders[1]))
            memory, by_sql = ((folder / f"C{i + 1}.npy").read_bytes() for folder in folders)
            assert memory == by_sql


@pytest.mark.parametrize(
    "rule, rows, memory, columns",
    [
        # With 16 times as many counters as samples, SQL is faster.
        ({"max_rows": 1600}, 99, 8 << 30, 0),
        ({"max_rows": 1600}, 100, 8 << 30, 2),
        ({"threshold": 2}, 1, 8 << 30, 2),
        # Without memory for any counters, only SQL can count.
        ({"max_rows": 40_000_000}, 50_000_000, 1 << 30, 0),
        ({"threshold": 2}, 50_000_000, 800 << 20, 0),
    ],
)
def test_columns_at_once_is_0_if_sql_should_count(rule, rows, memory, columns):
    at_once, _ = direct_counting.columns_at_once(dictionaries.Rule(**rule), rows, memory, 2)
    assert at_once == columns


def test_sql_counts_the_columns_that_turn_out_too_large(rng, tmp_path, monkeypatch):
    """C1 has few values; C2 has more than fit a hash table."""
    columns = {"C1": rng.integers(0, 50, 20_000), "C2": rng.integers(0, 2**32, 20_000)}
    part = _write_part(tmp_path / "part.parquet", columns)
    monkeypatch.setattr(
        direct_counting, "columns_at_once", lambda rule, rows, memory, jobs: (1, 300_000)
    )
    by_sql, counted = [], counting.make_dictionary

    def count(engine, rule, column, folder):
        by_sql.append(column)
        return counted(engine, rule, column, folder)

    monkeypatch.setattr(counting, "make_dictionary", count)
    rule = dictionaries.Rule(threshold=1)
    bar = mock.Mock()
    with open_engine(run_options(tmp_path, train_days=(0,)), str(tmp_path)) as engine:
        made = dict(engine.make_dictionaries([0, 1], [part], rule, str(tmp_path), bar))
    assert by_sql == [1]
    assert bar.show.call_args == mock.call(2, 2 * part.rows)
    for column, values in enumerate(columns.values()):
        expected = collections.Counter(values.tolist())
        assert dictionaries.load_column(str(tmp_path), column).tolist() == _ordered(expected)
        assert made[column]["distinct"] == len(expected)
