"""A disk that is full, at any moment: one line that names the file; then the run goes on."""

import contextlib
import errno
import os
import random
import re
import resource

import pytest

import preprocess as command
from dataset.preprocessing import lookup, native
from dataset.preprocessing.engines import duckdb_engine
from tests.support.dataset.preprocessing.fixtures import random_lines, records_of, write_days


@contextlib.contextmanager
def _largest_file(size):
    """No file may become larger, as on a full disk; Python ignores the signal that comes first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command on two days; returns (status, its error)."""
    write_days(tmp_path, random_lines(1, 400, bad=0.01), random_lines(2, 100))

    def run(*flags):
        words = ["--input", str(tmp_path / "days"), "--output", str(tmp_path / "out"), "--jobs=1"]
        words += ["--train_days=0", "--test_day=1", "--max_rejects=10%", "--memory_limit=1GiB"]
        status = command.main([*words, *flags])
        return status, capsys.readouterr().err

    return run


def _named(error, folder):
    """Returns the file that an error of one line names."""
    assert error.count("\n") == 1 and "Traceback" not in error, error
    found = re.fullmatch(rf"preprocess\.py: ({re.escape(str(folder))}(/\S+)?): .*\n", error)
    assert found, error
    return os.path.relpath(found[1], folder)


@pytest.mark.parametrize("flags", [[], ["--frequency_threshold=2", "--layout=per_table"]])
@pytest.mark.parametrize("size", [0, 30, 150, 300, 1000, 5000, 20000, 40000, 63000])
def test_the_file_is_named_and_the_run_goes_on(tmp_path, run, size, flags):
    with _largest_file(size):
        status, error = run(*flags)
    assert status == 2
    assert _named(error, tmp_path / "out")
    assert "File too large" in error or "No space left" in error
    status, error = run(*flags)
    assert (status, error) == (0, "")


def test_each_write_names_its_file(tmp_path, run, monkeypatch):
    """Every fsync of a run fails in turn."""
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
    seed = random.randrange(10**9)
    for turn in sorted(random.Random(seed).sample(range(1, total + 1), 25)):
        calls[0], fail_at[0] = 0, turn
        output = tmp_path / f"out{turn}"
        status, error = run("--keep_parts", "--output", str(output))
        assert status == 2 and "No space left on device" in error, (seed, turn)
        named.add(re.sub(r"\d+", "N", _named(error, output)))
    assert len(named) > 3, named


@pytest.mark.skipif(native.load() is None, reason="the native kernels are not built")
def test_lookup_tables(tmp_path, run, monkeypatch):
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
    assert len(records_of(tmp_path / "out" / "train_data.bin")) > 390
