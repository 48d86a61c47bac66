"""Tools that were killed while they wrote a dataset complete it when they run again."""

import json
import os
import subprocess
import sys

import pytest

from dataset import DatasetError, open_split
from tests.support.dataset.hand_written import VOCAB_SIZES
from tests.support.dataset.writers import command, content, run, write_source
from tests.support.paths import ROOT

# (tool, function, number of the call before which it is killed): before the first rename, between
# renames, before the last one, and before the marker is removed.
KILLS = [
    ("split_bin", "fsync", 2), ("split_bin", "replace", 0), ("split_bin", "replace", 2),
    ("split_bin", "replace", 3), ("per_table", "replace", 9), ("convert", "replace", 6),
    ("to_raw", "replace", 1), ("to_raw", "replace", 2), ("raw_file", "replace", 1),
    ("multihot", "replace", 6),
    ("synthetic", "fsync", 2), ("synthetic", "replace", 0), ("synthetic", "replace", 1),
    ("synthetic", "replace", 2), ("synthetic", "replace", 3),
    ("crossed", "replace", 3), ("crossed", "replace", 4),
]  # fmt: skip


def kill(scenarios):
    """Kills tools while they write; takes (tool, function, number, raw, out, *arguments)."""
    commands = []
    for tool, function, number, *places in scenarios:
        commands.append([function, number, *command(tool, *places)])
    script = ["-m", "tests.support.dataset.killed_writer", json.dumps(commands)]
    done = subprocess.run([sys.executable, *script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [-9] * len(commands)


@pytest.fixture(scope="module")
def raw(tmp_path_factory, shared_rng):
    """A raw dataset."""
    folder = tmp_path_factory.mktemp("killed")
    write_source(folder / "source", shared_rng("test_killed_writers"))
    return folder / "source"


@pytest.fixture(scope="module")
def killed(raw):
    """{scenario: its folder} of all `KILLS`, which one process makes."""
    folders = {kill: raw.parent / "-".join(map(str, kill)) for kill in KILLS}
    for folder in folders.values():
        folder.mkdir()
        (folder / "keep.txt").write_text("theirs")
    kill([(*kill, raw, folder) for kill, folder in folders.items()])
    return folders


@pytest.mark.parametrize("scenario", KILLS)
def test_killed_tool_completes_its_dataset_when_run_again(tmp_path, raw, killed, scenario):
    tool, out = scenario[0], killed[scenario]
    if tool in ("split_bin", "per_table"):
        with pytest.raises(DatasetError) as caught:
            open_split(out, vocab_sizes=VOCAB_SIZES)
        assert caught.value.expected == "metadata.json"
    (tmp_path / "other").mkdir()
    assert run(tool, raw, out) == 0
    assert run(tool, raw, tmp_path / "other") == 0
    found = content(out)
    assert found.pop("keep.txt") == b"theirs"
    # The temporary file of an atomic write stays.
    found = {name: data for name, data in found.items() if not name.endswith(".partial")}
    assert found == content(tmp_path / "other")


def test_killed_overwrite_can_be_completed_in_another_layout(tmp_path, raw):
    out = tmp_path / "out"
    assert run("per_table", raw, out) == 0
    kill([("per_table", "replace", 3, raw, out, "--overwrite")])
    assert run("split_bin", raw, out) == 0
    expected = ["category.bin", "dense.bin", "label.bin", "metadata.json"]
    assert sorted(os.listdir(out)) == expected
