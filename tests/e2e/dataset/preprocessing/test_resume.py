"""Runs that are killed, and continued by the same command."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from dataset.preprocessing import parts
from tests.support.dataset.preprocessing import killed_run
from tests.support.dataset.preprocessing.fixtures import (
    files_below,
    random_lines,
    run_quietly,
    write_days,
)

#: Where a run on three days of several parts is killed, in the order in which it gets there.
POINTS = [
    ("parts.PartWriter.close", 1),
    ("stages.Stages.commit", 2),
    ("parts.PartWriter.append", 2),
    ("rejects.write", 1),
    ("dictionaries.write_column", 1),
    ("dictionaries.write_column", 7),
    ("dictionaries.write_manifest", 1),
    ("lookup.write", 20),
    ("raw_records.RegionWriter.write", 2),
    ("raw_records.RegionWriter.sync", 2),
    ("finishing.finish", 1),
    ("finishing._rename", 1),
]


def _kill(folder, *runs):
    """Runs `killed_run`; returns the output of each killed run."""
    done = subprocess.run(
        [sys.executable, "-m", killed_run.__name__, str(folder), *runs],
        env={**os.environ, "PYTHONPATH": os.getcwd()}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    for run, (status, output) in zip(runs, results):
        assert status == -signal.SIGKILL, (run, output, done.stderr)
    return [output for _, output in results]


def _finished_before(text):
    """Returns how many stages of each kind a run found finished."""
    found = dict.fromkeys(("parse", "count", "map"), 0)
    found.update((k, int(n)) for k, n in re.findall(r"(\w+): .*, (\d+) finished before", text))
    return found


@pytest.fixture
def undisturbed(rng, tmp_path, monkeypatch):
    """The files of a run that is not killed."""
    monkeypatch.setattr(parts, "PART_BYTES", killed_run.PART_BYTES)
    write_days(tmp_path, *(random_lines(rng, 90 + day, bad=0.05) for day in range(3)))
    run_quietly(tmp_path, output=str(tmp_path / "undisturbed"), **killed_run.SPLIT)
    return files_below(tmp_path / "undisturbed")


def test_run_killed_repeatedly_gives_the_same_bytes(tmp_path, undisturbed):
    """Runs on the same folder, each killed a little later than the previous one."""
    outputs = _kill(tmp_path, *(f"memory:1:{point}:{count}" for point, count in POINTS))
    _, lines = run_quietly(tmp_path, **killed_run.SPLIT)
    assert files_below(tmp_path / "out") == undisturbed
    reached = [_finished_before(text) for text in [*outputs, "\n".join(lines)]]
    # A run does not repeat finished stages. Only renamed records are mapped again.
    for earlier, later in zip(reached, reached[1:]):
        assert later["parse"] >= earlier["parse"]
        assert later["count"] >= earlier["count"]
    assert reached[-1]["parse"] == reached[4]["parse"] > 3
    assert reached[-1]["count"] == 26
    assert reached[5]["count"] == 0 and reached[6]["count"] == 6
    before_finish = POINTS.index(("finishing.finish", 1))
    assert 0 < reached[before_finish]["map"] < reached[-1]["parse"]
    assert reached[before_finish + 1]["map"] == reached[-1]["parse"]
    assert not (tmp_path / "out" / ".preprocess" / "parts").exists()


@pytest.mark.parametrize(
    "run, counted",
    [("sql:1:counting.make_dictionary:5", 4), ("memory:2:dictionaries.write_manifest:1", 26)],
)
def test_counting_continues_after_a_kill(tmp_path, undisturbed, run, counted):
    """By SQL, and in worker processes, which also map; half-written files are removed."""
    _kill(tmp_path, run)
    (tmp_path / "out" / "dictionary" / "C26.npy.123.partial").write_bytes(b"half")
    _, lines = run_quietly(tmp_path, jobs=2, memory_limit=2 << 30, **killed_run.SPLIT)
    assert files_below(tmp_path / "out") == undisturbed
    assert _finished_before("\n".join(lines))["count"] == counted


def test_a_damaged_part_is_parsed_again(tmp_path, undisturbed):
    run_quietly(tmp_path, keep_parts=True, **killed_run.SPLIT)
    folder = tmp_path / "out" / ".preprocess"
    (folder / "stages" / "complete.json").unlink()
    path = sorted((folder / "parts").glob("part-*"))[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    _, lines = run_quietly(tmp_path, keep_parts=True, overwrite=True, **killed_run.SPLIT)
    (units,) = [line for line in lines if line.startswith("parse:")]
    total, before = map(int, re.findall(r"(\d+) (?:units|finished)", units))
    assert before == total - 1
    assert files_below(tmp_path / "out") == undisturbed
