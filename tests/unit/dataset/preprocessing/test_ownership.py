"""Preprocessing replaces only its own files, and a complete result only with --overwrite."""

import os

import pytest

from dataset.preprocessing import finishing
from dataset.preprocessing.errors import DictionaryError, OutputError
from dataset.preprocessing.output_folder import MANIFEST, OutputFolder
from dataset.preprocessing.stages import locked
from tests.support.dataset.preprocessing.fixtures import random_lines, write_days

SPLIT = {"train_days": (0,), "test_day": 1, "write_validation": True}


def _everything(folder):
    """Returns {path: bytes, or target of a link} of all files below a folder."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture(autouse=True)
def days(rng, tmp_path):
    """Two days."""
    return write_days(tmp_path, random_lines(rng, 60), random_lines(rng, 40))


@pytest.mark.parametrize(
    "name, layout",
    [
        ("train_data.bin", "raw"),
        ("validation_data.bin", "raw"),
        ("train_data.bin.partial", "per_table"),
        ("vocab_sizes.json", "raw"),
        ("report.json/other", "per_table"),
        ("test_data.bin", "raw"),
        ("rejects.tsv", "raw"),
        ("dictionary/C1.npy", "raw"),
        ("train/label.bin", "per_table"),
        ("validation/notes.txt", "per_table"),
        (".preprocess/scratch/notes.txt", "raw"),
        (".preprocess/lock", "raw"),
    ],
)
def test_files_of_others_are_not_replaced(tmp_path, preprocess, name, layout):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    if name == "test_data.bin":
        path.symlink_to("missing")
    else:
        path.write_bytes(b"other")
    before = _everything(tmp_path)
    with pytest.raises(OutputError) as caught:
        preprocess(**SPLIT, layout=layout, overwrite=True)
    assert caught.value.path.startswith(str(tmp_path / "out"))
    assert _everything(tmp_path) == before


def test_other_files_are_kept_and_stale_ones_reported(tmp_path, preprocess):
    (tmp_path / "out" / "dictionary").mkdir(parents=True)
    (tmp_path / "out" / ".preprocess").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("other")
    preprocess(**SPLIT)
    (tmp_path / "out" / "dictionary" / "notes.partial").write_text("other")
    _, logged = preprocess(train_days=(0,), overwrite=True)
    for name in ("test_data.bin", "validation_data.bin"):
        path = str(tmp_path / "out" / name)
        assert any(line.startswith(path) and "earlier run" in line for line in logged)
    preprocess(**SPLIT, overwrite=True, max_table_rows=7)  # The stale files may be replaced.
    assert (tmp_path / "out" / "notes.txt").read_text() == "other"
    assert (tmp_path / "out" / "dictionary" / "notes.partial").read_text() == "other"


def test_a_work_folder_with_other_files_is_refused(tmp_path, preprocess):
    """Preprocessing removes the folders `parts` and `scratch` of its work folder."""
    (tmp_path / "home" / "parts").mkdir(parents=True)
    (tmp_path / "home" / "parts" / "other").write_text("other")
    before = _everything(tmp_path)
    with pytest.raises(OutputError) as caught:
        preprocess(**SPLIT, work_dir=str(tmp_path / "home"))
    assert (caught.value.flag, caught.value.path) == ("work_dir", str(tmp_path / "home"))
    assert _everything(tmp_path) == before
    preprocess(**SPLIT, work_dir=str(tmp_path / "work"))
    # Its own work folder is accepted for another output.
    preprocess(**SPLIT, work_dir=str(tmp_path / "work"), output=str(tmp_path / "other"))


def test_a_file_that_appears_during_the_run_is_not_replaced(tmp_path, preprocess, monkeypatch):
    finish = finishing.finish
    for name in ("vocab_sizes.json", "train_data.bin"):
        path = tmp_path / "out" / name

        def late(*arguments, path=path):
            path.write_bytes(b"other")
            return finish(*arguments)

        monkeypatch.setattr(finishing, "finish", late)
        with pytest.raises(OutputError) as caught:
            preprocess(**SPLIT)
        assert caught.value.path == str(path)
        assert path.read_bytes() == b"other"
        path.unlink()
    monkeypatch.setattr(finishing, "finish", finish)
    _, logged = preprocess(**SPLIT)
    assert any(line.startswith("map: ") and "finished before" in line for line in logged)


def test_a_run_with_other_options_replaces_an_unfinished_one(tmp_path, preprocess, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(finishing, "_rename", fail)
    with pytest.raises(KeyboardInterrupt):
        preprocess(**SPLIT)
    monkeypatch.undo()
    preprocess(train_days=(0,), test_day=1, max_table_rows=3)
    preprocess(train_days=(0,), test_day=1, max_table_rows=3, output=str(tmp_path / "fresh"))
    new, expected = _everything(tmp_path / "out"), _everything(tmp_path / "fresh")
    assert new["train_data.bin"] == expected["train_data.bin"]
    # The validation set of the first run is removed.
    assert not list((tmp_path / "out").glob("*.partial"))


def test_a_run_killed_after_its_last_file_is_complete(tmp_path, preprocess, monkeypatch):
    def fail(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(OutputFolder, "finish", fail)
    with pytest.raises(KeyboardInterrupt):
        preprocess(**SPLIT, layout="per_table")
    monkeypatch.undo()
    _, logged = preprocess(**SPLIT, layout="per_table")
    assert any("already complete" in line for line in logged)
    assert not list((tmp_path / "out").glob("*.partial"))
    with pytest.raises(OutputError) as caught:
        preprocess(**SPLIT)
    assert caught.value.flag == "overwrite"


def test_locked_accepts_the_work_folder_of_a_killed_run(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "lock").write_bytes(b"")
    with locked(str(tmp_path / "work")):
        pass
    (tmp_path / "work" / "stages").mkdir()
    with locked(str(tmp_path / "work")):
        pass


def test_nothing_is_written_with_a_damaged_dictionary(tmp_path, preprocess):
    manifest = tmp_path / "dictionary.json"
    manifest.write_text("{}")
    later = {"dictionary": str(tmp_path), "output": str(tmp_path / "later")}
    with pytest.raises(DictionaryError) as caught:
        preprocess(**SPLIT, **later)
    assert caught.value.path == str(manifest)
    assert not (tmp_path / "later" / MANIFEST).exists()
