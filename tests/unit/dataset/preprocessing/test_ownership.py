"""Preprocessing replaces only what it wrote, and a whole result only where it is asked to."""

import json
import os

import pytest

from dataset.preprocessing import finishing, pipeline
from dataset.preprocessing.errors import OutputError
from dataset.preprocessing.output_folder import MANIFEST, OutputFolder
from dataset.preprocessing.stages import locked
from tests.support.dataset.preprocessing.fixtures import random_lines, run_options, write_days

SPLIT = {"train_days": (0,), "test_day": 1, "write_validation": True}


def _everything(folder):
    """Returns {path: bytes, or what the link points to} of all files below a folder."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def days(tmp_path):
    """Two days."""
    return write_days(tmp_path, random_lines(1, 60), random_lines(2, 40))


@pytest.mark.usefixtures("days")
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "name, layout",
    [
        ("train_data.bin", "raw"),
        ("test_data.bin", "raw"),
        ("validation_data.bin", "raw"),
        ("train_data.bin.partial", "raw"),
        ("train_data.bin.partial", "per_table"),
        ("vocab_sizes.json", "raw"),
        ("report.json", "per_table"),
        ("rejects.tsv", "raw"),
        ("dictionary/C1.npy", "raw"),
        ("train/label.bin", "per_table"),
        ("validation/notes.txt", "per_table"),
        (".preprocess/notes.txt", "raw"),
        (".preprocess/scratch/notes.txt", "raw"),
        (".preprocess/lock", "raw"),
    ],
)
def test_what_somebody_else_wrote_stays(tmp_path, preprocess, name, layout, overwrite):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    before = _everything(tmp_path)
    with pytest.raises(OutputError, match=str(tmp_path / "out")):
        preprocess(**SPLIT, layout=layout, overwrite=overwrite)
    assert _everything(tmp_path) == before


@pytest.mark.usefixtures("days")
def test_links_and_folders_are_not_replaced_either(tmp_path, preprocess):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "test_data.bin").symlink_to("nowhere")
    with pytest.raises(OutputError, match=r"test_data\.bin: was not written by preprocess\.py"):
        preprocess(**SPLIT, overwrite=True)
    (tmp_path / "out" / "test_data.bin").unlink()
    (tmp_path / "out" / "report.json" / "mine").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"report\.json: was not written by preprocess\.py"):
        preprocess(**SPLIT, overwrite=True)
    assert (tmp_path / "out" / "report.json" / "mine").is_dir()


@pytest.mark.usefixtures("days")
def test_other_files_and_empty_folders_do_not_matter(tmp_path, preprocess):
    (tmp_path / "out" / "dictionary").mkdir(parents=True)
    (tmp_path / "out" / ".preprocess").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    preprocess(**SPLIT)
    (tmp_path / "out" / "dictionary" / "notes.partial").write_text("mine")
    preprocess(**SPLIT, overwrite=True, max_table_rows=7)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "out" / "dictionary" / "notes.partial").read_text() == "mine"


@pytest.mark.usefixtures("days")
def test_a_work_folder_with_other_files_is_refused(tmp_path, preprocess):
    """Its folders `parts` and `scratch` would be removed."""
    (tmp_path / "home" / "parts").mkdir(parents=True)
    (tmp_path / "home" / "parts" / "mine").write_text("mine")
    before = _everything(tmp_path)
    with pytest.raises(OutputError, match=r"home: holds files .* \(--work_dir\) must be new"):
        preprocess(**SPLIT, work_dir=str(tmp_path / "home"))
    assert _everything(tmp_path) == before
    preprocess(**SPLIT, work_dir=str(tmp_path / "work"))
    # Its own, used again for another output.
    preprocess(**SPLIT, work_dir=str(tmp_path / "work"), output=str(tmp_path / "other"))


@pytest.mark.usefixtures("days")
@pytest.mark.parametrize("layout", ["raw", "per_table"])
@pytest.mark.parametrize("change", [{"max_table_rows": 9}, {"write_validation": False}])
def test_a_whole_result_is_replaced_only_on_request(tmp_path, preprocess, layout, change):
    preprocess(**SPLIT, layout=layout)
    before = _everything(tmp_path)
    with pytest.raises(OutputError, match=r"out: holds the complete result .* --overwrite"):
        preprocess(**{**SPLIT, **change}, layout=layout)
    assert _everything(tmp_path) == before
    _, said = preprocess(**SPLIT, layout=layout)
    assert any("complete already" in line for line in said)
    preprocess(**{**SPLIT, **change}, layout=layout, overwrite=True)
    fresh = {**SPLIT, **change, "output": str(tmp_path / "fresh"), "layout": layout}
    preprocess(**fresh)
    new, expected = _everything(tmp_path / "out"), _everything(tmp_path / "fresh")
    for name in expected:
        if not name.startswith(".preprocess") and name != MANIFEST:
            assert new[name] == expected[name], name


@pytest.mark.usefixtures("days")
def test_a_result_that_is_no_longer_written_is_named(tmp_path, preprocess):
    preprocess(**SPLIT)
    _, said = preprocess(train_days=(0,), overwrite=True)
    for name in ("test_data.bin", "validation_data.bin"):
        assert f"{tmp_path / 'out' / name} is of an earlier run: this one does not write it" in said
    preprocess(**SPLIT, overwrite=True, max_table_rows=5)  # Still its own.


@pytest.mark.usefixtures("days")
def test_a_file_put_in_place_of_a_result_stays(tmp_path, preprocess):
    preprocess(**SPLIT)
    path = tmp_path / "out" / "train_data.bin"
    path.write_bytes(b"other data")
    with pytest.raises(OutputError, match=r"train_data\.bin: was changed after preprocess\.py"):
        preprocess(**SPLIT, overwrite=True)
    assert path.read_bytes() == b"other data"


@pytest.mark.usefixtures("days")
@pytest.mark.parametrize("name", ["train_data.bin", "vocab_sizes.json"])
def test_a_file_that_comes_while_it_works_stays(tmp_path, preprocess, monkeypatch, name):
    path = tmp_path / "out" / name
    finish = finishing.finish

    def late(*arguments):
        path.write_bytes(b"mine")
        return finish(*arguments)

    monkeypatch.setattr(finishing, "finish", late)
    with pytest.raises(OutputError, match=f"{path}: was not written by preprocess.py"):
        preprocess(**SPLIT)
    assert path.read_bytes() == b"mine"
    monkeypatch.undo()
    path.unlink()
    _, said = preprocess(**SPLIT)
    assert any(line.startswith("map: ") and "finished before" in line for line in said)


@pytest.mark.usefixtures("days")
def test_an_unfinished_run_may_be_followed_by_one_with_other_options(
    tmp_path, preprocess, monkeypatch
):
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
    # What the first run left of its validation set is gone.
    assert not list((tmp_path / "out").glob("*.partial"))


@pytest.mark.usefixtures("days")
def test_a_run_killed_after_its_last_file_is_complete(tmp_path, preprocess, monkeypatch):
    def fail(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(OutputFolder, "finish", fail)
    with pytest.raises(KeyboardInterrupt):
        preprocess(**SPLIT, layout="per_table")
    monkeypatch.undo()
    _, said = preprocess(**SPLIT, layout="per_table")
    assert any("complete already" in line for line in said)
    assert not list((tmp_path / "out").glob("*.partial"))
    with pytest.raises(OutputError, match="--overwrite"):
        preprocess(**SPLIT)


@pytest.mark.parametrize(
    "content, field",
    [
        ("[]", "expected object"),
        ("{", "is not JSON"),
        ('{"format_version": 2, "complete": true, "files": {}}', "format_version: "),
        ('{"format_version": 1, "complete": 1, "files": {}}', "complete: expected bool, found 1"),
        ('{"format_version": 1, "complete": true, "files": [1]}', "files: expected object"),
        ('{"format_version": 1, "complete": true, "files": {"a": 1}}', "files"),
        ("[" * 100_000, "is nested too deep"),
    ],
)
def test_a_damaged_list_of_files_is_an_error(tmp_path, days, preprocess, content, field):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_text(content)
    with pytest.raises(OutputError, match=f"out/{MANIFEST}: {field}"):
        preprocess(**SPLIT)
    assert (tmp_path / "out" / MANIFEST).read_text() == content


@pytest.mark.parametrize(
    "damage, field",
    [
        (lambda stage: [], "expected object"),
        (lambda stage: {**stage, "key": 1}, "key: expected object, found 1"),
        (lambda stage: {"key": stage["key"]}, "outputs: is missing"),
        (lambda stage: {**stage, "outputs": [["a", 0, 1]]}, r"outputs\[0\]: expected list"),
        (
            lambda stage: {**stage, "outputs": [["a", 0, 1, "x"]]},
            r"outputs\[0\]\[3\]: expected int",
        ),
        (lambda stage: {**stage, "result": 7}, "result: expected object, found 7"),
        (lambda s: {**s, "result": {**s["result"], "parts": [1, 2]}}, r"result: parts\[0\]: exp"),
        (lambda s: {**s, "result": {**s["result"], "rows": -1}}, "result: rows: .*found -1"),
        (
            lambda s: {**s, "result": {**s["result"], "missing": [1]}},
            "result: missing: .*list of 1",
        ),
    ],
)
def test_a_damaged_stage_is_an_error_that_names_its_field(
    tmp_path, days, preprocess, damage, field
):
    preprocess(**SPLIT, keep_parts=True)
    path = next((tmp_path / "out" / ".preprocess" / "stages").glob("parse-00001*"))
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    again = {**SPLIT, "max_table_rows": 5, "overwrite": True}
    with pytest.raises(OutputError, match=f"{path}: {field}.*; remove the file"):
        preprocess(**again)
    path.unlink()
    preprocess(**again)


def test_a_work_folder_begun_by_a_killed_run_is_its_own(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "lock").write_bytes(b"")
    with locked(str(tmp_path / "work")):
        pass
    (tmp_path / "work" / "stages").mkdir()
    with locked(str(tmp_path / "work")):
        pass


def test_nothing_is_written_before_the_options_are_known_to_fit(tmp_path, days):
    pipeline.run(run_options(tmp_path, **SPLIT), say=lambda line: None)
    manifest = tmp_path / "out" / "dictionary" / "dictionary.json"
    manifest.write_text(manifest.read_text().replace('"rule": "modulo"', '"rule": "none"'))
    later = {"dictionary": str(manifest.parent), "output": str(tmp_path / "later")}
    with pytest.raises(Exception, match=r"dictionary\.json: rule: expected one of modulo, freq"):
        pipeline.run(run_options(tmp_path, **SPLIT, **later), say=lambda line: None)
    assert not (tmp_path / "later" / MANIFEST).exists()
