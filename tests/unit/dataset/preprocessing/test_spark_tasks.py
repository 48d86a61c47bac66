"""Writing of mapped rows on Spark's executors, without Spark."""

import zlib

import numpy as np
import pyarrow as pa
import pytest

from dataset.preprocessing.columns import CATEGORICAL_NAMES, DENSE_NAMES
from dataset.preprocessing.engines import spark_engine, spark_tasks
from dataset.preprocessing.errors import PreprocessError
from dataset.preprocessing.mapping import MapTask
from dataset.preprocessing.parts import PARTS_PER_FILE, Part
from dataset.preprocessing.raw_records import allocate
from dataset.preprocessing.splits import TEST, TRAIN, Destination
from tests.support.dataset.preprocessing.fixtures import records_of


@pytest.fixture(autouse=True)
def _local_library(monkeypatch):
    """Uses this machine's library, since there are no shipped files."""
    monkeypatch.setattr(spark_tasks, "use_shipped_library", lambda: None)


def _task(folder, number, rows, *destinations):
    part = Part(number, "part.parquet", rows, 0, 0)
    return MapTask(part, destinations, str(folder), "zero", None)


def _batch(number, records, has_id):
    """Returns the mapped rows of a part as Spark passes them; null for a value without an id."""
    columns = {
        "part_id": pa.array(np.full(len(records), number, np.int32)),
        "row_id": pa.array(np.arange(len(records), dtype=np.int32)),
        "label": pa.array(records[:, 0]),
    }
    for i, name in enumerate(DENSE_NAMES):
        columns[name] = pa.array(records[:, 1 + i])
    for i, name in enumerate(CATEGORICAL_NAMES):
        columns[name] = pa.array(records[:, 14 + i], mask=~has_id[:, i])
    return pa.RecordBatch.from_pydict(columns)


def test_write_places_the_records_of_each_part(rng, tmp_path):
    records = [rng.integers(-5, 100, (rows, 40), np.int32) for rows in (7, 5)]
    has_id = [rng.random((len(part), 26)) < 0.8 for part in records]
    tasks = [
        _task(tmp_path, 3, 7, Destination(TRAIN, 0, 0, 4), Destination(TEST, 0, 4, 7)),
        _task(tmp_path, 4, 5, Destination(TEST, 3, 0, 5)),
    ]
    for file, rows in ((TRAIN, 4), (TEST, 8)):
        allocate(f"{tmp_path}/{file}.partial", rows)
    first, second = (_batch(n, *part) for n, part in zip((3, 4), zip(records, has_id)))
    # Batches do not end where parts do.
    middle = pa.Table.from_batches([first.slice(2), second.slice(0, 1)]).combine_chunks()
    batches = [first.slice(0, 2), *middle.to_batches()]
    written = list(spark_tasks.Write(tasks)([*batches, second.slice(1)]))
    expected = []
    for part, present in zip(records, has_id):
        part[:, 1:14] = np.maximum(part[:, 1:14], 0)
        part[:, 14:] *= present
        expected.append(part)
    np.testing.assert_array_equal(records_of(f"{tmp_path}/{TRAIN}.partial"), expected[0][:4])
    test = np.concatenate([expected[0][4:], expected[1]])
    np.testing.assert_array_equal(records_of(f"{tmp_path}/{TEST}.partial"), test)
    rows = [row for batch in written for row in batch.to_pylist()]
    assert [row["part_id"] for row in rows] == [3, 4]
    assert [row["without_id"] for row in rows] == [(~part).sum(0).tolist() for part in has_id]
    regions = [expected[0][:4], expected[0][4:], expected[1]]
    found = [crc32 for row in rows for crc32 in row["crc32"]]
    assert found == [zlib.crc32(region.tobytes()) for region in regions]


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 2], [0, 1, 1, 2], [0, 1]])
def test_write_rejects_missing_and_unordered_rows(rng, tmp_path, order):
    records = rng.integers(0, 9, (3, 40), np.int32)
    allocate(f"{tmp_path}/{TRAIN}.partial", 3)
    task = _task(tmp_path, 1, 3, Destination(TRAIN, 0, 0, 3))
    batch = _batch(1, records, np.ones((3, 26), bool)).take(pa.array(order))
    with pytest.raises(PreprocessError) as caught:
        list(spark_tasks.Write([task])([batch]))
    assert caught.value.path == "part.parquet"


def test_tasks_are_grouped_by_input_file(tmp_path):
    tasks = [_task(tmp_path, number, 1) for number in (0, PARTS_PER_FILE, 1, PARTS_PER_FILE + 5)]
    assert spark_engine._by_file(tasks) == [[0, 2], [1, 3]]
