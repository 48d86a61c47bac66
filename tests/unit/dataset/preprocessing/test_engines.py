"""DuckDB's settings, its SQL against the lookup, and engines that are not installed."""

import builtins

import numpy as np
import pytest

from dataset.preprocessing import dictionaries, sql
from dataset.preprocessing.engines import open_engine
from dataset.preprocessing.errors import EngineError
from tests.support.dataset.preprocessing.fixtures import (
    random_lines,
    records_of,
    run_options,
    run_quietly,
    write_days,
)


def test_lookup_equals_the_mapping_statement(rng, tmp_path):
    """DuckDB's result of `sql.mapping` has the ids from the hash tables."""
    import duckdb
    import pyarrow as pa

    for rule in ({"max_table_rows": 50}, {"frequency_threshold": 3}):
        folder = tmp_path / next(iter(rule))
        folder.mkdir()
        write_days(folder, random_lines(rng, 200))
        run_quietly(folder, train_days=(0,), keep_parts=True, **rule)
        used, _ = dictionaries.read_manifest(str(folder / "out" / "dictionary"))
        database = duckdb.connect()
        path = folder / "out" / ".preprocess" / "parts" / "*.parquet"
        database.execute(f"CREATE VIEW samples AS SELECT * FROM '{path}'")
        for column in range(26):
            values = dictionaries.load_column(str(folder / "out" / "dictionary"), column)
            ids = np.arange(used.first_id, used.first_id + values.size, dtype=np.int32)
            table = pa.table({"value": values.astype(np.int64), "id": ids})
            database.register(f"dictionary_{column + 1}", table)
        rows = database.execute(f"{sql.mapping(used.max_rows)} ORDER BY part_id, row_id").fetchall()
        expected = np.array([[id or 0 for id in row[16:]] for row in rows], np.int32)
        np.testing.assert_array_equal(
            records_of(folder / "out" / "train_data.bin")[:, 14:], expected
        )


def test_duckdb_gets_its_share_of_the_memory_limit(tmp_path):
    options = run_options(tmp_path, train_days=(0,), memory_limit=2 << 30, jobs=2)
    with open_engine(options, str(tmp_path)) as engine:
        settings = "SELECT current_setting('memory_limit'), current_setting('threads')"
        ((limit, threads),) = engine._execute(settings)
    assert limit == "1.3 GiB"  # 70 % of 2 GiB.
    assert threads == 2


@pytest.mark.parametrize("engine,module", [("duckdb", "duckdb"), ("spark", "pyspark.sql")])
def test_open_engine_names_the_package_to_install(tmp_path, monkeypatch, engine, module):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name == module:
            raise ImportError(f"No module named {module!r}")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    options = run_options(tmp_path, train_days=(0,), engine=engine)
    with pytest.raises(EngineError, match=f"pip install.* {module.partition('.')[0]}") as caught:
        open_engine(options, str(tmp_path))
    assert caught.value.flag == "engine"


@pytest.mark.parametrize("pyspark, java", [("3.5.8", "8, 11 or 17"), ("4.3.0", "17 or later")])
def test_open_engine_names_the_java_versions(tmp_path, monkeypatch, pyspark, java):
    module = pytest.importorskip("pyspark", reason="PySpark is not installed")
    monkeypatch.setattr(module, "__version__", pyspark)
    options = run_options(tmp_path, train_days=(0,), engine="spark")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    for variable, path in (("PATH", None), ("JAVA_HOME", str(tmp_path))):
        monkeypatch.setenv(variable, str(tmp_path))
        with pytest.raises(EngineError) as caught:
            open_engine(options, str(tmp_path))
        error = caught.value
        assert (error.flag, error.expected, error.path) == ("engine", java, path)
