"""The tools that write datasets replace only their own files."""

import json
import os

import pytest

from dataset import convert, open_dataset, open_split, validate
from storage import partial_files
from storage.claim import MARKER, Claim
from tests.support.dataset.hand_written import VOCAB_SIZES
from tests.support.dataset.writers import TOOLS, content, run, write_source


@pytest.fixture
def raw(tmp_path, rng):
    """A raw dataset."""
    write_source(tmp_path / "source", rng)
    return tmp_path / "source"


WRITTEN = [
    ("split_bin", "label.bin"), ("split_bin", "category.bin"), ("split_bin", "metadata.json"),
    ("split_bin", "dense.bin.partial"), ("split_bin", MARKER),
    ("per_table", "category_3.bin"), ("convert", "train/label.bin"),
    ("convert", "test/metadata.json"), ("to_raw", "test_data.bin"), ("to_raw", "vocab_sizes.json"),
    ("to_raw", "generator.json"), ("to_raw", "train_data.bin.partial"),
    ("raw_file", "train_data.bin"), ("raw_file", "generator.json"),
    ("synthetic", "train_data.bin"), ("synthetic", "test_data.bin.partial"),
    ("synthetic", "generator.json"), ("synthetic", "vocab_sizes.json"),
    ("crossed", "train_data.bin"), ("crossed", "metadata.json"),
]  # fmt: skip


def make_file(path):
    path.write_bytes(b"[1, 2]")


def make_link(path):
    (path.parent / "elsewhere").write_bytes(b"theirs")
    path.symlink_to("elsewhere")


def make_dangling_link(path):
    path.symlink_to("nowhere")


CASES = [
    *((tool, name, make_file, ["--overwrite"]) for tool, name in WRITTEN),
    *((tool, "label.bin", make, []) for tool in ("split_bin", "per_table")
      for make in (make_file, make_link, make_dangling_link)),
    ("synthetic", "vocab_sizes.json", make_link, ["--overwrite"]),
    ("to_raw", "test_data.bin", make_dangling_link, ["--overwrite"]),
]  # fmt: skip


@pytest.mark.parametrize(("tool", "name", "make", "overwrite"), CASES)
def test_tool_keeps_files_of_others(tmp_path, capsys, raw, tool, name, make, overwrite):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    make(out / name)
    before = content(out)
    assert run(tool, raw, out, *overwrite) == 2
    assert f"{out / name}: " in capsys.readouterr().err.splitlines()[-1]
    after = content(out)
    assert {path: after.get(path) for path in before} == before
    # A split that was complete before the other one failed may exist.
    assert all("partial" not in path or path in before for path in after)


@pytest.mark.parametrize("tool", TOOLS)
def test_tool_replaces_its_dataset_only_with_overwrite(tmp_path, capsys, raw, tool):
    out = tmp_path / "out"
    assert run(tool, raw, out) == 0
    (out / "keep.txt").write_text("theirs")
    before = content(out)
    assert MARKER not in before
    assert run(tool, raw, out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert content(out) == before
    assert run(tool, raw, out, "--overwrite") == 0
    assert content(out) == before


def test_overwrite_removes_files_of_the_other_layout(tmp_path, raw):
    out = tmp_path / "out"
    assert run("per_table", raw, out) == 0
    (out / "keep.txt").write_text("theirs")
    assert run("split_bin", raw, out, "--overwrite") == 0
    expected = ["category.bin", "dense.bin", "keep.txt", "label.bin", "metadata.json"]
    assert sorted(os.listdir(out)) == expected
    assert run("per_table", raw, out, "--overwrite") == 0
    assert validate.validate(open_split(out), progress=False)[1] == []


def test_overwrite_replaces_multi_hot_data_by_one_hot_data(tmp_path, raw):
    out = tmp_path / "out"
    for tool, hotness in (("crossed", (2, 1, 4)), ("synthetic", (1, 1, 1))):
        assert run(tool, raw, out, "--overwrite") == 0
        train, test = open_dataset(out)
        assert train.bags.hotness == test.bags.hotness == hotness
        assert validate.validate(train, progress=False)[1] == []
    assert not (out / "metadata.json").exists()


def test_one_hot_data_is_not_written_next_to_multi_hot_metadata(tmp_path, capsys, raw):
    out = tmp_path / "out"
    out.mkdir()
    theirs = json.dumps({"vocab_sizes": [9, 20, 3], "hotness_per_table": [1, 2, 1]})
    (out / "metadata.json").write_text(theirs)
    assert run("synthetic", raw, out) == 2
    assert f"{out / 'metadata.json'}: " in capsys.readouterr().err
    assert content(out) == {"metadata.json": theirs.encode()}


def test_overwrite_keeps_the_seed_benchmarks_split(tmp_path, raw):
    out = tmp_path / "out"
    assert run("split_bin", raw, out) == 0
    seed = {"vocab_sizes": VOCAB_SIZES, "dense_log": True}
    (out / "metadata.json").write_text(json.dumps(seed))
    before = content(out)
    assert run("split_bin", raw, out, "--overwrite") == 2
    assert content(out) == before


@pytest.mark.parametrize("tool", TOOLS)
def test_failed_overwrite_changes_nothing(tmp_path, raw, tool, monkeypatch):
    out = tmp_path / "out"
    assert run(tool, raw, out) == 0
    before = content(out)

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(partial_files.PartialFiles, "write", fail)
    assert run(tool, raw, out, "--overwrite") == 130
    assert content(out) == before


def test_tools_refuse_a_folder_that_is_being_written(tmp_path, raw, capsys):
    out = tmp_path / "out"
    out.mkdir()
    with Claim(out):
        for tool in ("split_bin", "convert", "synthetic"):
            assert run(tool, raw, out) == 2
            assert f"{out}: another process" in capsys.readouterr().err
    assert os.listdir(out) == []


def test_convert_keeps_a_users_equal_vocabulary_sizes(tmp_path, raw):
    out = tmp_path / "out"
    out.mkdir()
    text = json.dumps(VOCAB_SIZES, indent=3)
    (out / "vocab_sizes.json").write_text(text)
    assert run("to_raw", raw, out) == 0
    assert (out / "vocab_sizes.json").read_text() == text
    assert open_dataset(out)[0].vocab_sizes == VOCAB_SIZES


def test_second_raw_file_keeps_the_facts_about_the_first(tmp_path, raw):
    out = tmp_path / "out"
    assert run("synthetic", raw, out) == 0
    known = json.loads((out / "generator.json").read_text())
    arguments = [str(raw / "test_data.bin"), str(out / "copy.bin"), "--layout=raw"]
    assert convert.main(arguments) == 0
    facts = json.loads((out / "generator.json").read_text())
    assert facts["files"].pop("copy.bin") == {"samples": 100, "attainable_auc": None}
    assert facts == known
