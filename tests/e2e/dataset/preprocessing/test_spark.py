"""Spark against DuckDB, and its errors."""

import json
import os
import shutil
import subprocess
import sys
import zlib

import pytest

from dataset.preprocessing import counting, dictionaries, native, parsing, parts
from dataset.preprocessing.engines import open_engine, spark_engine
from dataset.preprocessing.errors import EngineError, InputError
from dataset.preprocessing.inputs import find_inputs
from dataset.preprocessing.mapping import MapTask
from dataset.preprocessing.progress import ProgressBar
from dataset.preprocessing.raw_records import allocate
from dataset.preprocessing.splits import Destination
from tests.support.dataset.preprocessing.fixtures import (
    files_below,
    random_lines,
    run_options,
    run_quietly,
    write_days,
)

#: Settings that make Spark fast on very little data.
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
    """One session for all tests here, which the engine joins."""
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


def test_spark_parses_the_same_parts_as_this_process(rng, tmp_path, spark):
    """With the shipped library."""
    days = write_days(tmp_path, random_lines(rng, 100, bad=0.1), random_lines(rng, 30))
    units = parsing.plan_units(find_inputs(str(days)))
    options = run_options(tmp_path, train_days=(0,), engine="spark")
    results, folders = {}, {}
    for name in ("here", "spark"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
    results["here"] = [parsing.parse_unit(unit, str(folders["here"])) for unit in units]
    with open_engine(options, str(tmp_path / "scratch")) as engine:
        parsed = engine.parse(units, str(folders["spark"]), ProgressBar("", 1, "B"))
        results["spark"] = [result for _, result in sorted(parsed, key=lambda pair: pair[0])]
    here = json.dumps(results["here"]).replace(str(folders["here"]), str(folders["spark"]))
    assert results["spark"] == json.loads(here)
    assert files_below(folders["spark"]) == files_below(folders["here"])


def test_spark_maps_the_same_records_as_duckdb(rng, tmp_path, spark):
    write_days(tmp_path, random_lines(rng, 90))
    run_quietly(tmp_path, train_days=(0,), keep_parts=True, frequency_threshold=2)
    (path,) = (tmp_path / "out" / ".preprocess" / "parts").glob("*.parquet")
    dictionary = str(tmp_path / "out" / "dictionary")
    rule, _ = dictionaries.read_manifest(dictionary)
    part = parts.Part(0, str(path), 90, 0, 0)
    target = tmp_path / "train_data.bin.partial"
    allocate(str(target), 90)
    task = MapTask(part, (Destination("train_data.bin", 0, 0, 90),), str(tmp_path), "zero", None)
    options, committed = run_options(tmp_path, train_days=(0,), engine="spark"), []
    with open_engine(options, str(tmp_path / "scratch")) as engine:
        bar = ProgressBar("", 90, " rows")
        engine.map([task], dictionary, rule, lambda *done: committed.append(done), bar)
    assert target.read_bytes() == (tmp_path / "out" / "train_data.bin").read_bytes()
    ((index, result),) = committed
    assert (index, result["crc32"]) == (0, [zlib.crc32(target.read_bytes())])


@pytest.mark.slow
@pytest.mark.parametrize("rule", [{"frequency_threshold": 2}, {"max_table_rows": 900}], ids=str)
def test_spark_writes_the_same_bytes_as_duckdb(rng, tmp_path, monkeypatch, spark, rule):
    monkeypatch.setattr(parts, "PART_BYTES", 40000)
    days = write_days(tmp_path, *(random_lines(rng, 250, bad=0.02) for _ in range(2)))
    first = (days / "day_0").read_bytes()
    (days / "day_0").write_bytes(b"\xef\xbb\xbf" + first.replace(b"\n", b"\r\n"))
    (days / "day_1").write_bytes((days / "day_1").read_bytes()[:-4])
    split = {"train_days": (0,), "test_day": 1, "write_validation": True, "max_rejects": 0.5}
    for engine in ("duckdb", "spark"):
        run_quietly(tmp_path, engine=engine, output=str(tmp_path / engine), **split, **rule)
    found = files_below(tmp_path / "spark")
    assert found == files_below(tmp_path / "duckdb")
    inputs = json.loads(found["report.json"])["inputs"]
    assert inputs["byte_order_mark"] == [str(days / "day_0")]
    assert inputs["without_final_newline"] == [str(days / "day_1")]
    assert {"train_data.bin", "validation_data.bin", "report.json", "rejects.tsv"} <= set(found)


# With one row in the table, a partition of Spark's is empty.
@pytest.mark.parametrize("max_rows, distinct", [(77, range(2, 78)), (1, range(1, 2))])
def test_spark_makes_the_same_modulo_dictionary_as_duckdb(rng, tmp_path, spark, max_rows, distinct):
    write_days(tmp_path, random_lines(rng, 300))
    run_quietly(tmp_path, train_days=(0,), keep_parts=True)
    paths = sorted((tmp_path / "out" / ".preprocess" / "parts").glob("*.parquet"))
    found = [parts.Part(0, str(path), 0, 0, 0) for path in paths]
    made = {}
    for name in ("duckdb", "spark"):
        folder = tmp_path / name
        folder.mkdir()
        options = run_options(tmp_path, train_days=(0,), engine=name)
        with open_engine(options, str(folder)) as engine:
            engine.open_samples(found)
            rule = dictionaries.Rule(max_rows=max_rows)
            summary = counting.make_dictionary(engine, rule, 1, str(folder))
        made[name] = summary, (folder / "C2.npy").read_bytes()
    assert made["duckdb"] == made["spark"]
    assert made["duckdb"][0]["distinct"] in distinct


@pytest.mark.parametrize("kind", ["pipe", "utf16"])
def test_spark_names_an_unreadable_input(rng, tmp_path, spark, kind):
    """The executor's error arrives with its fields."""
    days = write_days(tmp_path, random_lines(rng, 6))
    options = run_options(tmp_path, train_days=(0,), engine="spark")
    if kind == "utf16":
        (days / "day_0").write_text("0\t1\n", encoding="utf-16")
    file = find_inputs(str(days))[0]
    if kind == "pipe":
        (days / "day_0").unlink()
        os.mkfifo(days / "day_0")
    with open_engine(options, str(tmp_path)) as engine, pytest.raises(InputError) as caught:
        list(engine.parse(parsing.plan_units([file]), str(tmp_path), ProgressBar("", 1, "B")))
    assert caught.value.path == str(days / "day_0")


def test_spark_names_the_folder_of_a_full_disk(tmp_path, spark):
    from pyspark.errors import PySparkException

    def fail():
        raise PySparkException(
            "Job aborted\nCaused by: java.io.IOException: No space left on device"
        )

    options = run_options(tmp_path, train_days=(0,), engine="spark")
    with open_engine(options, str(tmp_path)) as engine, pytest.raises(EngineError) as caught:
        engine._try(fail)
    assert caught.value.path == str(tmp_path / "spark")
    assert "java.io.IOException" in str(caught.value)


def test_spark_executors_need_only_the_shipped_files(tmp_path):
    """The zip and the library, without the packages that docs/preprocess.md does not name."""
    shipped = spark_engine._zip_packages(str(tmp_path))
    library = shutil.copy(native.PATH, tmp_path)
    program = (
        "import pathlib, sys\n"
        "sys.modules['duckdb'] = sys.modules['tensorflow'] = None\n"
        "from dataset.preprocessing import native, parsing, tsv\n"
        "from dataset.preprocessing.engines import spark_tasks\n"
        f"native.PATH = pathlib.Path({library!r})\n"
        "assert tsv.decode_lines(b'0' + 39 * b'\\t' + b'\\n').lines == 1\n"
        "print(parsing.__file__, spark_tasks.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": shipped},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(shipped) == 2
