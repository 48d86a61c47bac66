import os
import re
import signal
import subprocess
import sys

import pytest

from dataset.preprocessing import native, parts, pipeline
from tests.support.dataset.preprocessing import killed_run
from tests.support.dataset.preprocessing.fixtures import random_lines, run_options, write_days

#: Where a run on three days of five parts is killed, in the order in which a run gets there.
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


def _days(folder):
    write_days(folder, *(random_lines(seed, 90 + seed, bad=0.05) for seed in range(3)))


def _finished_before(text):
    """Returns how many stages of each kind a run found finished."""
    found = dict.fromkeys(("parse", "count", "map"), 0)
    found.update((k, int(n)) for k, n in re.findall(r"(\w+): .*, (\d+) finished before", text))
    return found


def _files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".preprocess" not in path.parts
    }


@pytest.fixture
def undisturbed(tmp_path, monkeypatch):
    """The files of a run that nobody kills."""
    monkeypatch.setattr(parts, "PART_BYTES", killed_run.PART_BYTES)
    _days(tmp_path)
    options = run_options(tmp_path, output=str(tmp_path / "undisturbed"), **killed_run.SPLIT)
    pipeline.run(options, say=lambda line: None)
    return _files(tmp_path / "undisturbed")


def test_a_run_killed_again_and_again_gives_the_same_bytes(tmp_path, undisturbed):
    """Runs on the same folder, each killed a little later than the one before."""
    reached = []
    for point, count in POINTS:
        command = [sys.executable, "-m", killed_run.__name__, str(tmp_path), point, str(count)]
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == -signal.SIGKILL, (point, run.stdout, run.stderr)
        reached.append(_finished_before(run.stdout))
    said = []
    pipeline.run(run_options(tmp_path, **killed_run.SPLIT), say=said.append)
    assert _files(tmp_path / "out") == undisturbed
    # What one run finished, the next does not do again; renamed records alone are mapped anew.
    reached.append(_finished_before("\n".join(said)))
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
    "kernels, jobs, point",
    [
        ("none", 1, ("counting.make_dictionary", 5)),  # SQL counts
        ("none", 2, ("counting.make_dictionary", 9)),
        ("native", 2, ("dictionaries.write_manifest", 1)),
        ("native", 1, ("direct_counting._order", 5)),
    ],
)
def test_counting_goes_on_where_it_was_killed(tmp_path, undisturbed, kernels, jobs, point):
    """However values are counted; and what a killed process has half written goes."""
    if kernels == "native" and native.load() is None:
        pytest.skip(f"{native.PATH} is not built")
    name, count = point
    command = [sys.executable, "-m", killed_run.__name__, str(tmp_path), name, str(count)]
    run = subprocess.run(
        [*command, kernels, str(jobs)], env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == -signal.SIGKILL, (run.stdout, run.stderr)
    (tmp_path / "out" / "dictionary" / "C26.npy.123.partial").write_bytes(b"half")
    said = []
    pipeline.run(run_options(tmp_path, **killed_run.SPLIT), say=said.append)
    assert _files(tmp_path / "out") == undisturbed
    assert _finished_before("\n".join(said))["count"] == (26 if count == 1 else count - 1)


def test_a_damaged_part_is_parsed_again(tmp_path, undisturbed):
    options = run_options(tmp_path, keep_parts=True, **killed_run.SPLIT)
    pipeline.run(options, say=lambda line: None)
    folder = tmp_path / "out" / ".preprocess"
    (folder / "stages" / "complete.json").unlink()
    path = sorted((folder / "parts").glob("part-*"))[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    said = []
    options.overwrite = True
    pipeline.run(options, say=said.append)
    units = [line for line in said if line.startswith("parse:")]
    total, before = map(int, re.findall(r"(\d+) (?:units|finished)", units[0]))
    assert before == total - 1
    assert _files(tmp_path / "out") == undisturbed
