"""Counters against Python's own counting, and dictionaries made by them against those of SQL."""

import collections
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset.preprocessing import counting, dictionaries, direct_counting, native, parts, pipeline
from dataset.preprocessing.columns import CATEGORICAL_NAMES
from dataset.preprocessing.engines import open_engine
from tests.dataset.preprocessing.conftest import random_lines, run_options, write_days


@pytest.fixture(scope="module")
def kernels():
    """Without the library, these tests have nothing to run: `make test` builds it."""
    if not native.PATH.exists():
        pytest.skip(f"{native.PATH} is not built")
    assert native.load() is not None, f"{native.PATH} does not fit these sources: make ops"
    return native.load()


@pytest.mark.parametrize("max_rows", [1, 7, 1000, 3_000_001])
def test_every_value_is_counted_once(kernels, max_rows):
    rng = random.Random()
    counters = np.zeros(max_rows, np.int64)
    expected = collections.Counter()
    for rows in (1, 127, 128, 129, 1000):
        for missing in (0.0, 0.3, 1.0):
            pool = [0, 1, 2**32 - 1, *(rng.randrange(2**32) for _ in range(200))]
            values = [None if rng.random() < missing else rng.choice(pool) for _ in range(rows)]
            column = pa.array(values, pa.uint32())
            # A slice's values and its bits begin in the midst of the buffers.
            for piece in (column, column[3:], column[13 : rows - 1]):
                native.count_values(kernels, piece, max_rows, counters)
                expected.update((value or 0) % max_rows for value in piece.to_pylist())
    assert {int(i): int(counters[i]) for i in np.flatnonzero(counters)} == expected


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
    summary = direct_counting.make_dictionary(paths, rule, 1, str(tmp_path))
    counted = collections.Counter((values % 5000).tolist())
    expected = sorted(counted, key=lambda value: (-counted[value], value))
    assert dictionaries.load_column(str(tmp_path), 1).tolist() == expected
    assert summary["most_frequent"] == [[f"{v:08x}", counted[v]] for v in expected[:10]]
    assert summary["vocab_size"] == summary["distinct"] == len(counted)
    assert summary["rare_values"] == summary["rare_samples"] == 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_dictionaries_are_those_of_sql(kernels, tmp_path, monkeypatch, jobs):
    monkeypatch.setattr(parts, "PART_BYTES", 20000)
    write_days(tmp_path, random_lines(1, 300), random_lines(2, 200))
    options = run_options(tmp_path, train_days=(0, 1), keep_parts=True)
    pipeline.run(options, say=lambda line: None)
    paths = sorted((tmp_path / "out" / ".preprocess" / "parts").glob("*.parquet"))
    found = [parts.Part(i, str(path), 250, 0, 0) for i, path in enumerate(paths)]
    assert len(found) > 2
    rule = dictionaries.Rule(max_rows=77)
    made, shown = {}, []

    class Bar:
        def show(self, done, rows):
            shown.append((done, rows))

    for way in ("counters", "SQL"):
        folder = tmp_path / way
        folder.mkdir()
        options = run_options(tmp_path, train_days=(0,), jobs=jobs, memory_limit=2 << 30)
        with monkeypatch.context() as only, open_engine(options, str(folder)) as engine:
            if way == "SQL":
                only.setattr(native, "load", lambda: None)
            else:
                only.setattr(counting, "make_dictionary", None)
            summaries = engine.make_dictionaries([1, 0, 25], found, rule, str(folder), Bar())
            made[way] = dict(summaries), {p.name: p.read_bytes() for p in folder.glob("*.npy")}
    assert made["counters"] == made["SQL"]
    assert sorted(made["SQL"][1]) == ["C1.npy", "C2.npy", "C26.npy"]
    assert shown


@pytest.mark.parametrize(
    "rule, limit",
    [({"max_rows": 40_000_000}, 1 << 30), ({"threshold": 2}, 8 << 30)],
    ids=["no room", "frequency rule"],
)
def test_sql_counts_where_counters_do_not_fit(kernels, tmp_path, monkeypatch, rule, limit):
    asked = []
    monkeypatch.setattr(
        counting, "make_dictionary", lambda engine, rule, column, folder: asked.append(column)
    )
    monkeypatch.setattr(direct_counting, "make_dictionary", None)
    options = run_options(tmp_path, train_days=(0,), memory_limit=limit)
    part = parts.Part(0, str(tmp_path / "part.parquet"), 50_000_000, 0, 0)
    pq.write_table(pa.table({"C1": pa.array([1], pa.uint32())}), part.path)

    class Bar:
        def show(self, done, rows):
            assert rows == done * part.rows

    with open_engine(options, str(tmp_path)) as engine:
        made = engine.make_dictionaries([2, 4], [part], dictionaries.Rule(**rule), "", Bar())
        assert [column for column, _ in made] == asked == [2, 4]
