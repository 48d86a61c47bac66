"""Counting in memory against Python's Counter, and its dictionaries against those of SQL."""

import collections

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset.preprocessing import counting, dictionaries, direct_counting, native, parts
from dataset.preprocessing.columns import CATEGORICAL_NAMES
from dataset.preprocessing.engines import open_engine
from dataset.preprocessing.hash_counters import HashCounters, TableFullError
from tests.support.dataset.preprocessing.fixtures import run_options


class _Bar:
    """Records progress."""

    def __init__(self):
        self.shown = []

    def show(self, done, rows):
        self.shown.append((done, rows))


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


def test_count_values_ignores_values_under_nulls():
    column = pa.array(np.array([5, 6, 5], np.uint32), mask=np.array([True, False, True]))
    counters = np.zeros(10, np.int64)
    native.count_values(column, 10, counters)
    assert counters.tolist() == [2, 0, 0, 0, 0, 0, 1, 0, 0, 0]


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
    part = _write_part(tmp_path / "part.parquet", columns)
    rule, made = dictionaries.Rule(**rule), []
    for name in ("memory", "sql"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "memory":
            summaries = [
                direct_counting.make_dictionary([part.path], rule, i, str(folder), 1 << 30)
                for i in range(3)
            ]
        else:
            options = run_options(tmp_path, train_days=(0,))
            with open_engine(options, str(folder)) as engine:
                engine.open_samples([part])
                summaries = [
                    counting.make_dictionary(engine, rule, i, str(folder)) for i in range(3)
                ]
        made.append((summaries, [(folder / f"C{i + 1}.npy").read_bytes() for i in range(3)]))
    assert made[0] == made[1]


@pytest.mark.parametrize("rule", [{"max_rows": 40_000_000}, {"threshold": 2}], ids=str)
def test_sql_counts_if_no_counters_fit_the_memory(tmp_path, monkeypatch, rule):
    by_sql = []
    monkeypatch.setattr(
        counting, "make_dictionary", lambda engine, rule, column, folder: by_sql.append(column)
    )
    monkeypatch.setattr(direct_counting, "make_dictionary", None)
    monkeypatch.setattr(direct_counting, "_PROCESS_BYTES", 600 << 20)
    options = run_options(tmp_path, train_days=(0,), memory_limit=1 << 30, jobs=2)
    part = _write_part(tmp_path / "part.parquet", {"C1": np.array([1])})._replace(rows=50_000_000)
    bar = _Bar()
    with open_engine(options, str(tmp_path)) as engine:
        made = engine.make_dictionaries([2, 4], [part], dictionaries.Rule(**rule), "", bar)
        assert [column for column, _ in made] == by_sql == [2, 4]
    assert bar.shown == [(1, part.rows), (2, 2 * part.rows)]


def test_columns_at_once_leaves_few_samples_to_sql():
    rule, memory = dictionaries.Rule(max_rows=1600), 8 << 30
    assert direct_counting.columns_at_once(rule, 99, memory, 2) == (0, 0)
    assert direct_counting.columns_at_once(rule, 100, memory, 2)[0] == 2
    assert direct_counting.columns_at_once(dictionaries.Rule(threshold=2), 1, memory, 2)[0] == 2


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
    with open_engine(run_options(tmp_path, train_days=(0,)), str(tmp_path)) as engine:
        made = dict(engine.make_dictionaries([0, 1], [part], rule, str(tmp_path), _Bar()))
    assert by_sql == [1]
    for column, values in enumerate(columns.values()):
        expected = collections.Counter(values.tolist())
        assert dictionaries.load_column(str(tmp_path), column).tolist() == _ordered(expected)
        assert made[column]["distinct"] == len(expected)
