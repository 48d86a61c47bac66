"""Completion records of failed and missing ranks; `test_saver.py` reads those of all ranks."""

import threading

import pytest

from training.checkpoint.completion_records import await_ranks, publish_done, publish_failure
from training.runtime.errors import UserError


def record(rank):
    return {"digests": {f"table_00.rank_{rank}.npy": "0" * 64}, "tables": [], "named": {},
            "bytes": rank}  # fmt: skip


def test_await_ranks_raises_the_failure_of_a_rank_whose_files_are_removed(tmp_path):
    for rank in (0, 1):
        (tmp_path / f"table_00.rank_{rank}.npy").write_bytes(b"rows")
    publish_done(tmp_path, 0, record(0))
    publish_failure(tmp_path, 1, "disk full")
    with pytest.raises(UserError) as caught:
        await_ranks(tmp_path, 2, 5, threading.Event())
    assert str(caught.value) == "rank 1: disk full"
    assert [path.name for path in tmp_path.glob("*.npy")] == ["table_00.rank_0.npy"]


def test_await_ranks_names_the_first_rank_without_a_record(tmp_path):
    publish_done(tmp_path, 0, record(0))
    stopping = threading.Event()
    for timeout in (0.1, 60):
        with pytest.raises(UserError) as caught:
            await_ranks(tmp_path, 3, timeout, stopping)
        assert (caught.value.path, caught.value.bound) == (str(tmp_path), timeout)
        assert "rank 1 " in str(caught.value)
        stopping.set()
