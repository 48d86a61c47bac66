"""DuckDB and Spark on the same days; memory limits handed on; engines that are not there."""

import builtins
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from dataset.preprocessing import counting, dictionaries, parsing, parts, pipeline, sql
from dataset.preprocessing.engines import open_engine, spark_engine
from dataset.preprocessing.errors import EngineError, InputError
from dataset.preprocessing.inputs import find_inputs
from dataset.preprocessing.progress import ProgressBar
from tests.support.dataset.preprocessing.fixtures import (
    random_lines,
    records_of,
    run_options,
    write_days,
)

MANY_GROUPS = (
    "SELECT range % 12000000 AS value, COUNT(*) AS frequency FROM range(15000000) GROUP BY 1"
)
#: Settings that make Spark quick on next to no data.
QUICK = {
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
}


@pytest.fixture(scope="module")
def spark():
    """One session for all tests here; the engine joins it."""
    pyspark_sql = pytest.importorskip("pyspark.sql", reason="PySpark is not installed")
    pytest.importorskip("pandas", reason="pandas, which PySpark needs, is not installed")
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        pytest.skip("Java is not installed")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = pyspark_sql.SparkSession.builder.master("local[1]")
    for key, value in QUICK.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


def _files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".preprocess" not in path.parts
    }


@pytest.mark.parametrize(
    "rule",
    [{"frequency_threshold": 2}, pytest.param({"max_table_rows": 900}, marks=pytest.mark.slow)],
)
def test_both_engines_write_the_same_bytes(tmp_path, monkeypatch, spark, rule):
    monkeypatch.setattr(parts, "PART_BYTES", 40000)
    days = write_days(tmp_path, *(random_lines(seed, 250, bad=0.02) for seed in range(2)))
    first = (days / "day_0").read_bytes()
    (days / "day_0").write_bytes(b"\xef\xbb\xbf" + first.replace(b"\n", b"\r\n"))
    (days / "day_1").write_bytes((days / "day_1").read_bytes()[:-4])
    split = {"train_days": (0,), "test_day": 1, "write_validation": True, "max_rejects": 0.5}
    for engine in ("duckdb", "spark"):
        out = str(tmp_path / engine)
        options = run_options(tmp_path, engine=engine, output=out, **split, **rule)
        pipeline.run(options, say=lambda line: None)
    found = _files(tmp_path / "spark")
    assert found == _files(tmp_path / "duckdb")
    inputs = json.loads(found["report.json"])["inputs"]
    assert inputs["byte_order_mark"] == [str(days / "day_0")]
    assert inputs["without_final_newline"] == [str(days / "day_1")]
    assert {"train_data.bin", "validation_data.bin", "report.json", "rejects.tsv"} <= set(found)


# With one row in the table, a partition of Spark's is empty.
@pytest.mark.parametrize("max_rows, distinct", [(77, range(21, 78)), (1, range(1, 2))])
def test_both_engines_make_the_same_modulo_dictionary(tmp_path, spark, max_rows, distinct):
    write_days(tmp_path, random_lines(1, 300))
    options = run_options(tmp_path, train_days=(0,), keep_parts=True)
    pipeline.run(options, say=lambda line: None)
    paths = sorted((tmp_path / "out" / ".preprocess" / "parts").glob("*.parquet"))
    found = [parts.Part(0, str(path), 0, 0, 0) for path in paths]
    made = {}
    for name in ("duckdb", "spark"):
        folder = tmp_path / name
        folder.mkdir()
        options = run_options(tmp_path, train_days=(0,), engine=name)
        with open_engine(options, str(folder)) as engine:
            engine.open_samples(found)
            summary = counting.make_dictionary(
                engine, dictionaries.Rule(max_rows=max_rows), 1, str(folder)
            )
        made[name] = summary, (folder / "C2.npy").read_bytes()
    assert made["duckdb"] == made["spark"]
    assert made["duckdb"][0]["distinct"] in distinct


@pytest.mark.parametrize("kind", ["pipe", "utf16"])
def test_spark_names_an_input_that_it_cannot_read(tmp_path, spark, kind):
    days = write_days(tmp_path, random_lines(1, 6))
    options = run_options(tmp_path, train_days=(0,), engine="spark")
    if kind == "pipe":
        file = find_inputs(str(days))[0]
        (days / "day_0").unlink()
        os.mkfifo(days / "day_0")  # After it was found.
    else:
        (days / "day_0").write_text("0\t1\n", encoding="utf-16")
        file = find_inputs(str(days))[0]
    with open_engine(options, str(tmp_path)) as engine, pytest.raises(InputError, match="day_0: "):
        list(engine.parse(parsing.plan_units([file]), str(tmp_path), ProgressBar("", 1, "B")))


def test_spark_says_where_the_disk_is_full(tmp_path, spark):
    from pyspark.errors import PySparkException

    def fail():
        raise PySparkException(
            "Job aborted\nCaused by: java.io.IOException: No space left on device"
        )

    options = run_options(tmp_path, train_days=(0,), engine="spark")
    with open_engine(options, str(tmp_path)) as engine, pytest.raises(EngineError) as caught:
        engine._try(fail)
    assert str(caught.value) == (
        "Spark: java.io.IOException: No space left on device; Spark's temporary files are in "
        f"{tmp_path / 'spark'}"
    )


def test_spark_ships_what_its_executors_import(tmp_path, spark):
    """Parsing and writing need no package beside those that docs/preprocess.md names."""
    shipped = spark_engine._ship_package(str(tmp_path))
    program = (
        "import sys; sys.modules['duckdb'] = sys.modules['tensorflow'] = None\n"
        "from dataset.preprocessing import parsing\n"
        "from dataset.preprocessing.engines import spark_tasks\n"
        "print(parsing.__file__, spark_tasks.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": shipped},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.count(shipped) == 2


def test_the_lookup_is_the_mapping_statement(tmp_path):
    """DuckDB's own run of `sql.mapping` gives the ids that the hash tables gave."""
    import duckdb
    import pyarrow as pa

    for rule in ({"max_table_rows": 50}, {"frequency_threshold": 3}):
        folder = tmp_path / next(iter(rule))
        folder.mkdir()
        write_days(folder, random_lines(1, 400))
        options = run_options(folder, train_days=(0,), keep_parts=True, **rule)
        pipeline.run(options, say=lambda line: None)
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


def test_duckdb_is_held_to_its_share_of_the_memory_limit(tmp_path):
    options = run_options(tmp_path, train_days=(0,), memory_limit=2 << 30, jobs=2)
    with open_engine(options, str(tmp_path)) as engine:
        limit, threads = engine.settings()
    assert limit == "1.3 GiB"  # 70 % of 2 GiB.
    assert threads == "2"


@pytest.fixture
def cramped_engine(tmp_path):
    """DuckDB with less memory than MANY_GROUPS take; DuckDB 1.4 counts in 150 MiB at least."""
    with open_engine(run_options(tmp_path, train_days=(0,)), str(tmp_path)) as engine:
        engine._execute("SET memory_limit = '200MiB'")
        engine._execute("SET threads = 1")
        yield engine


def test_counting_stays_within_the_memory_limit_by_spilling(cramped_engine):
    cramped_engine.count(MANY_GROUPS)
    assert cramped_engine.row(sql.summary(2)) == (15000000, 12000000, 9000000, 9000000)
    batches = [np.asarray(b.column(0)) for b in cramped_engine.ordered(sql.dictionary(2))]
    np.testing.assert_array_equal(np.concatenate(batches), np.arange(3000000))
    (spilled,) = cramped_engine._fetch_row(
        "SELECT SUM(temporary_storage_bytes) FROM duckdb_memory()"
    )
    assert spilled > 0


def test_duckdb_says_where_the_disk_is_full(cramped_engine, tmp_path):
    cramped_engine._execute("SET max_temp_directory_size = '2MiB'")
    with pytest.raises(EngineError, match=f"DuckDB: .*no room .* in {tmp_path}: name a --work"):
        cramped_engine.count(MANY_GROUPS)


@pytest.mark.parametrize("engine,module", [("duckdb", "duckdb"), ("spark", "pyspark.sql")])
def test_an_engine_that_is_not_installed_is_an_error(tmp_path, monkeypatch, engine, module):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name == module:
            raise ImportError(f"No module named {module!r}")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    options = run_options(tmp_path, train_days=(0,), engine=engine)
    with pytest.raises(EngineError, match=rf"--engine={engine} needs .*pip install"):
        open_engine(options, str(tmp_path))


@pytest.mark.parametrize("pyspark, java", [("3.5.8", "8, 11 or 17"), ("4.3.0", "17 or later")])
def test_missing_java_is_an_error(tmp_path, monkeypatch, pyspark, java):
    module = pytest.importorskip("pyspark", reason="PySpark is not installed")
    monkeypatch.setattr(module, "__version__", pyspark)
    options = run_options(tmp_path, train_days=(0,), engine="spark")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=f"needs Java {java}: no java on the PATH"):
        open_engine(options, str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(EngineError, match=f"JAVA_HOME={tmp_path} has no bin/java"):
        open_engine(options, str(tmp_path))
