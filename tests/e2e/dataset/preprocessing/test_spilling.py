"""DuckDB with too little memory for its groups. Takes seconds, and starts no process."""

import numpy as np
import pytest

from dataset.preprocessing import sql
from dataset.preprocessing.engines import open_engine
from dataset.preprocessing.errors import EngineError
from tests.support.dataset.preprocessing.fixtures import run_options

MANY_GROUPS = (
    "SELECT range % 12000000 AS value, COUNT(*) AS frequency FROM range(15000000) GROUP BY 1"
)


@pytest.fixture
def cramped_engine(tmp_path):
    """DuckDB with less memory than MANY_GROUPS needs; DuckDB 1.4 needs at least 150 MiB."""
    with open_engine(run_options(tmp_path, train_days=(0,)), str(tmp_path)) as engine:
        engine._execute("SET memory_limit = '200MiB'")
        engine._execute("SET threads = 1")
        yield engine


def test_duckdb_spills_to_stay_within_the_memory_limit(cramped_engine):
    cramped_engine.count(MANY_GROUPS)
    assert cramped_engine.row(sql.summary(2)) == (15000000, 12000000, 9000000, 9000000)
    batches = [np.asarray(b.column(0)) for b in cramped_engine.ordered(sql.dictionary(2))]
    np.testing.assert_array_equal(np.concatenate(batches), np.arange(3000000))
    spilled = cramped_engine.row("SELECT SUM(temporary_storage_bytes) FROM duckdb_memory()")
    assert spilled > (0,)


def test_duckdb_names_the_folder_of_a_full_disk(cramped_engine, tmp_path):
    cramped_engine._execute("SET max_temp_directory_size = '2MiB'")
    with pytest.raises(EngineError) as caught:
        cramped_engine.count(MANY_GROUPS)
    assert (caught.value.flag, caught.value.path) == ("work_dir", str(tmp_path))
