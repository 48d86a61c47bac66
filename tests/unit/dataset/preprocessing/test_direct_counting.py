"""Counting in memory against Python's own, and dictionaries made by it against those of SQL."""

import collections
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset.preprocessing import counting, dictionaries, direct_counting, native, parts, pipeline
from dataset.preprocessing.columns import CATEGORICAL_NAMES
from dataset.preprocessing.engines import open_engine
from dataset.preprocessing.hash_counters import HashCounters, TableFullError
from tests.support.dataset.preprocessing.fixtures import random_lines, run_options, write_days


def random_columns(rng, values):
    """Yields Arrow columns of `values`; slices of them, whose bits begin in the midst of a byte."""
    for rows in (1, 127, 128, 129, 1000):
        for missing in (0.0, 0.3, 1.0):
            found = [None if rng.random() < missing else rng.choice(values) for _ in range(rows)]
            column = pa.array(found, pa.uint32())
            yield from (column, column[3:], column[13 : rows - 1])


@pytest.mark.parametrize("max_rows", [1, 7, 1000, 3_000_001])
def test_every_value_is_counted_once(kernels, max_rows):
    rng = random.Random()
    counters = np.zeros(max_rows, np.int64)
    expected = collections.Counter()
    for column in random_columns(
        rng, [0, 1, 2**32 - 1, *(rng.randrange(2**32) for _ in "x" * 200)]
    ):
        native.count_values(kernels, column, max_rows, counters)
        expected.update((value or 0) % max_rows for value in column.to_pylist())
    assert {int(i): int(counters[i]) for i in np.flatnonzero(counters)} == expected


@pytest.mark.parametrize("distinct", [1, 200, 30_000])
def test_every_value_is_counted_once_in_a_hash_table(kernels, distinct):
    """Also while the table grows, in the midst of a column."""
    rng = random.Random()
    counters = HashCounters(kernels, 1 << 20)
    values = [rng.randrange(2**32) for _ in range(distinct)]
    expected = collections.Counter(values)
    counters.add(pa.array(values, pa.uint32()))
    for column in random_columns(rng, [0, 2**32 - 1, *values]):
        counters.add(column)
        expected.update(value for value in column.to_pylist() if value is not None)
    found, counts = counters.counts()
    assert found.dtype == counts.dtype == np.uint32
    assert found.tolist() == sorted(expected)
    assert counts.tolist() == [expected[value] for value in sorted(expected)]


def test_a_table_that_would_be_too_large_is_said(kernels):
    counters = HashCounters(kernels, 1 << 17)  # 16,384 entries, seven tenths of them in use
    counters.add(pa.array(range(11_468), pa.uint32()))
    counters.add(pa.array([5] * 1000, pa.uint32()))
    with pytest.raises(TableFullError, match="more than 131072 bytes"):
        counters.add(pa.array([11_468], pa.uint32()))
    with pytest.raises(TableFullError):
        HashCounters(kernels, 100)


def test_a_count_that_would_not_fit_is_said(kernels):
    counters = HashCounters(kernels, 1 << 20)
    counters.add(pa.array([77], pa.uint32()))
    (slot,) = np.flatnonzero(counters._table)
    counters._table[slot] = (77 << 32) + 2**32 - 2
    counters.add(pa.array([77], pa.uint32()))
    with pytest.raises(TableFullError, match="4,294,967,295 times"):
        counters.add(pa.array([77], pa.uint32()))
    assert [part.tolist() for part in counters.counts()] == [[77], [2**32 - 1]]


def test_what_lies_under_a_null_does_not_count(kernels):
    column = pa.array(np.array([5, 6, 5], np.uint32), mask=np.array([True, False, True]))
    counters = np.zeros(10, np.int64)
    native.count_values(kernels, column, 10, counters)
    assert counters.tolist() == [2, 0, 0, 0, 0, 0, 1, 0, 0, 0]


def test_the_order_is_by_frequency_then_value(kernels, tmp_path):
    """Also of values seen more often than sixteen bits can tell."""
    rng = np.random.default_rng()
    frequent = rng.permutation(1000)[:6].tolist()
    often = [65534, 65535, 65536, 65536, 70000, 70000]
    rare = rng.integers(1000, 3000, 30_000)
    values = np.concatenate([np.repeat(frequent, often), rare])
    rng.shuffle(values)
    # 5000 apart, so that the modulo is needed to tell which are the same.
    values = (values + 5000 * rng.integers(0, 1000, values.size)).astype(np.uint32)
    paths = []
    for number, piece in enumerate(np.array_split(values, 3)):
        columns = {name: pa.array(piece) for name in CATEGORICAL_NAMES[:2]}
        paths.append(str(tmp_path / f"{number}.parquet"))
        pq.write_table(pa.table(columns), paths[-1])
    rule = dictionaries.Rule(max_rows=5000)
    summary = direct_counting.make_dictionary(paths, rule, 1, str(tmp_path), 0)
    counted = collections.Counter((values % 5000).tolist())
    expected = sorted(counted, key=lambda value: (-counted[value], value))
    assert dictionaries.load_column(str(tmp_path), 1).tolist() == expected
    assert summary["most_frequent"] == [[f"{v:08x}", counted[v]] for v in expected[:10]]
    assert summary["vocab_size"] == summary["distinct"] == len(counted)
    assert summary["rare_values"] == summary["rare_samples"] == 0


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    "rule", [{"max_rows": 77}, {"threshold": 1}, {"threshold": 3}, {"threshold": 1000}], ids=str
)
def test_the_dictionaries_are_those_of_sql(kernels, tmp_path, monkeypatch, jobs, rule):
    monkeypatch.setattr(parts, "PART_BYTES", 20000)
    write_days(tmp_path, random_lines(1, 300), random_lines(2, 200))
    options = run_options(tmp_path, train_days=(0, 1), keep_parts=True)
    pipeline.run(options, say=lambda line: None)
    paths = sorted((tmp_path / "out" / ".preprocess" / "parts").glob("*.parquet"))
    found = [parts.Part(i, str(path), 250, 0, 0) for i, path in enumerate(paths)]
    assert len(found) > 2
    made, shown = {}, []

    class Bar:
        def show(self, done, rows):
            shown.append((done, rows))

    for way in ("memory", "SQL"):
        folder = tmp_path / way
        folder.mkdir()
        options = run_options(tmp_path, train_days=(0,), jobs=jobs, memory_limit=2 << 30)
        with monkeypatch.context() as only, open_engine(options, str(folder)) as engine:
            if way == "SQL":
                only.setattr(native, "load", lambda: None)
            else:
                only.setattr(counting, "make_dictionary", None)
            used = dictionaries.Rule(**rule)
            summaries = engine.make_dictionaries([1, 0, 25], found, used, str(folder), Bar())
            made[way] = dict(summaries), {p.name: p.read_bytes() for p in folder.glob("*.npy")}
    assert made["memory"] == made["SQL"]
    assert sorted(made["SQL"][1]) == ["C1.npy", "C2.npy", "C26.npy"]
    assert shown


@pytest.mark.parametrize("rule", [{"max_rows": 40_000_000}, {"threshold": 2}], ids=str)
def test_sql_counts_where_nothing_has_room(kernels, tmp_path, monkeypatch, rule):
    asked = []
    monkeypatch.setattr(
        counting, "make_dictionary", lambda engine, rule, column, folder: asked.append(column)
    )
    monkeypatch.setattr(direct_counting, "make_dictionary", None)
    monkeypatch.setattr(direct_counting, "_PROCESS_BYTES", 600 << 20)
    options = run_options(tmp_path, train_days=(0,), memory_limit=1 << 30, jobs=2)
    part = parts.Part(0, str(tmp_path / "part.parquet"), 50_000_000, 0, 0)
    pq.write_table(pa.table({"C1": pa.array([1], pa.uint32())}), part.path)

    class Bar:
        def show(self, done, rows):
            assert rows == done * part.rows

    with open_engine(options, str(tmp_path)) as engine:
        made = engine.make_dictionaries([2, 4], [part], dictionaries.Rule(**rule), "", Bar())
        assert [column for column, _ in made] == asked == [2, 4]


def test_few_samples_are_left_to_sql(kernels):
    rule, memory = dictionaries.Rule(max_rows=1600), 8 << 30
    assert direct_counting.columns_at_once(rule, 99, memory, 2) == (0, 0)
    assert direct_counting.columns_at_once(rule, 100, memory, 2)[0] == 2
    assert direct_counting.columns_at_once(dictionaries.Rule(threshold=2), 1, memory, 2)[0] == 2


def test_sql_counts_the_columns_that_turn_out_too_large(kernels, tmp_path, monkeypatch):
    """C1 has few values; C2 has more than fit a table."""
    rng = np.random.default_rng()
    columns = {"C1": rng.integers(0, 50, 20_000), "C2": rng.integers(0, 2**32, 20_000)}
    arrays = {name: pa.array(values.astype(np.uint32)) for name, values in columns.items()}
    part = parts.Part(0, str(tmp_path / "part.parquet"), 20_000, 0, 0)
    pq.write_table(pa.table(arrays), part.path)
    monkeypatch.setattr(
        direct_counting, "columns_at_once", lambda rule, rows, memory, jobs: (1, 300_000)
    )
    by_sql, counted = [], counting.make_dictionary

    def count(engine, rule, column, folder):
        by_sql.append(column)
        return counted(engine, rule, column, folder)

    monkeypatch.setattr(counting, "make_dictionary", count)

    class Bar:
        def show(self, done, rows):
            pass

    rule = dictionaries.Rule(threshold=1)
    with open_engine(run_options(tmp_path, train_days=(0,)), str(tmp_path)) as engine:
        made = dict(engine.make_dictionaries([0, 1], [part], rule, str(tmp_path), Bar()))
    assert by_sql == [1]
    for column, values in enumerate(columns.values()):
        expected = collections.Counter(values.tolist())
        found = dictionaries.load_column(str(tmp_path), column).tolist()
        assert found == sorted(expected, key=lambda value: (-expected[value], value))
        assert made[column]["distinct"] == len(expected)
