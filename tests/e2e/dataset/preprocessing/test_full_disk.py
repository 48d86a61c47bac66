"""A full disk, at any moment: one line that names the file; the next run continues."""

import contextlib
import errno
import multiprocessing
import os
import re
import resource

import numpy as np
import pytest

import preprocess as command
from dataset.preprocessing import lookup
from dataset.preprocessing.engines import duckdb_engine
from tests.support.dataset.preprocessing.fixtures import random_lines, records_of, write_days

LINES, REJECTS = 400, 4  # Of the training day, whose records take 396 * 160 = 63,360 bytes.


@contextlib.contextmanager
def _largest_file(size):
    """Limits the size of files, as on a full disk; Python ignores the signal SIGXFSZ."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def run(rng, tmp_path, capsys):
    """Runs the command on two days; returns (status, standard error)."""
    # Allocates the shared memory of the progress counters, which is not on the disk.
    multiprocessing.Array("q", 1)
    lines = random_lines(rng, LINES)
    for row in rng.choice(LINES, REJECTS, replace=False):
        lines[row] += "\tx"
    write_days(tmp_path, lines, random_lines(rng, 100))

    def run(*flags):
        words = ["--input", str(tmp_path / "days"), "--output", str(tmp_path / "out"), "--jobs=1"]
        words += ["--train_days=0", "--test_day=1", "--max_rejects=10%", "--memory_limit=1GiB"]
        status = command.main([*words, *flags])
        return status, capsys.readouterr().err

    return run


def _named(error, folder):
    """Returns the file named by a one-line error."""
    assert error.count("\n") == 1 and "Traceback" not in error, error
    found = re.fullmatch(rf"preprocess\.py: ({re.escape(str(folder))}(/\S+)?): .*\n", error)
    assert found, error
    return os.path.relpath(found[1], folder)


@pytest.mark.parametrize(
    "sizes, flags",
    [
        ((0, 1000, 20000, 63000), []),
        ((150, 5000, 40000), ["--frequency_threshold=2", "--layout=per_table"]),
    ],
)
def test_a_run_names_the_file_that_does_not_fit_and_continues_later(tmp_path, run, sizes, flags):
    for size in sizes:
        with _largest_file(size):
            status, error = run(*flags)
        assert status == 2, size
        assert _named(error, tmp_path / "out")
        assert "File too large" in error or "No space left" in error
    assert run(*flags) == (0, "")


def test_a_run_names_the_file_whose_fsync_fails(rng, tmp_path, run, monkeypatch):
    """Eight of the fsync calls of a run fail, one in each run."""
    calls, fail_at = [0], [0]

    def fsync(descriptor):
        calls[0] += 1
        if calls[0] == fail_at[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    assert run("--keep_parts")[0] == 0
    total = calls[0]
    assert total > 60
    named = set()
    # One out of each eighth.
    for number in (np.linspace(1, total, 9)[:-1] + rng.integers(total // 8, size=8)).astype(int):
        calls[0], fail_at[0] = 0, number
        output = tmp_path / f"out{number}"
        status, error = run("--keep_parts", "--output", str(output))
        assert status == 2 and os.strerror(errno.ENOSPC) in error, number
        named.add(re.sub(r"\d+", "N", _named(error, output)))
    assert len(named) > 1, named


def test_a_run_names_the_lookup_table_that_does_not_fit(tmp_path, run, monkeypatch):
    built = lookup.write

    def write(path, values, first_id):
        with _largest_file(20):
            built(path, values, first_id)

    monkeypatch.setattr(duckdb_engine.lookup, "write", write)
    status, error = run()
    assert status == 2
    assert _named(error, tmp_path / "out").startswith(".preprocess/scratch/lookup-")
    monkeypatch.undo()
    assert run()[0] == 0
    assert len(records_of(tmp_path / "out" / "train_data.bin")) == LINES - REJECTS
