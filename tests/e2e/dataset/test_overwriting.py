"""The tools that write datasets replace their own files alone, and go on after a kill."""

import json
import os
import signal
import subprocess
import sys

import pytest

import split_bin
from dataset import convert, open_dataset, open_split, synthetic, validate
from storage.claim import MARKER, Claim
from tests.support.dataset.hand_written import VOCAB_SIZES, random_arrays, write_raw
from tests.support.paths import ROOT

SIZES = json.dumps(VOCAB_SIZES)
SYNTHETIC = ["--train_samples=300", "--test_samples=100", "--vocab_sizes=9,20,3"]


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for name, samples in (("train_data.bin", 400), ("test_data.bin", 100)):
        write_raw(folder / name, random_arrays(samples))
    (folder / "vocab_sizes.json").write_text(SIZES)
    return folder


def command(tool, raw, out, *more):
    """Returns (module, arguments) that write into the folder `out`."""
    return {
        "split_bin": ("split_bin", [str(raw / "train_data.bin"), str(out), *more]),
        "per_table": (
            "split_bin", [str(raw / "train_data.bin"), str(out), "--split_categories", *more]
        ),
        "convert": ("dataset.convert", [str(raw), str(out), "--layout=three_file", *more]),
        "to_raw": ("dataset.convert", [str(raw), str(out), "--layout=raw", *more]),
        "raw_file": (
            "dataset.convert",
            [str(raw / "train_data.bin"), str(out / "train_data.bin"), "--layout=raw", *more],
        ),
        "synthetic": ("dataset.synthetic", [f"--output={out}", *SYNTHETIC, *more]),
    }[tool]  # fmt: skip


def run(tool, raw, out, *more):
    name, arguments = command(tool, raw, out, *more)
    modules = {"split_bin": split_bin, "dataset.convert": convert, "dataset.synthetic": synthetic}
    return modules[name].main(arguments)


def content(folder):
    """Returns {path: bytes, or where a link leads} of everything below a folder."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


TOOLS = ("split_bin", "per_table", "convert", "to_raw", "raw_file", "synthetic")
WRITTEN = [
    ("split_bin", "label.bin"), ("split_bin", "category.bin"), ("split_bin", "metadata.json"),
    ("split_bin", "dense.bin.partial"), ("split_bin", MARKER),
    ("per_table", "category_3.bin"), ("convert", "train/label.bin"),
    ("convert", "test/metadata.json"), ("to_raw", "test_data.bin"), ("to_raw", "vocab_sizes.json"),
    ("to_raw", "generator.json"), ("to_raw", "train_data.bin.partial"),
    ("raw_file", "train_data.bin"), ("raw_file", "generator.json"),
    ("synthetic", "train_data.bin"), ("synthetic", "test_data.bin.partial"),
    ("synthetic", "generator.json"), ("synthetic", "vocab_sizes.json"),
]  # fmt: skip


def make_file(path):
    path.write_bytes(b"[1, 2]")


def make_link(path):
    (path.parent / "elsewhere").write_bytes(b"theirs")
    path.symlink_to("elsewhere")


def make_dangling_link(path):
    path.symlink_to("nowhere")


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("make", [make_file, make_link, make_dangling_link])
@pytest.mark.parametrize(("tool", "name"), WRITTEN)
def test_somebody_elses_file_stays(tmp_path, capsys, raw, tool, name, make, overwrite):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    make(out / name)
    before = content(out)
    assert run(tool, raw, out, *overwrite) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"{out / name}: " in message
    assert "it is not replaced; move it away" in message
    after = content(out)
    assert {path: after.get(path) for path in before} == before
    # A split that was complete before the other one failed may be there.
    assert all("partial" not in path or path in before for path in after)


@pytest.mark.parametrize("tool", TOOLS)
def test_own_dataset_is_replaced_with_overwrite_alone(tmp_path, capsys, raw, tool):
    out = tmp_path / "out"
    assert run(tool, raw, out) == 0
    (out / "keep.txt").write_text("theirs")
    before = content(out)
    assert MARKER not in before
    assert run(tool, raw, out) == 2
    assert "is there already: remove it, or give --overwrite" in capsys.readouterr().err
    assert content(out) == before
    assert run(tool, raw, out, "--overwrite") == 0
    assert content(out) == before


def test_files_of_another_layout_are_superseded(tmp_path, raw):
    out = tmp_path / "out"
    assert run("per_table", raw, out) == 0
    (out / "keep.txt").write_text("theirs")
    assert run("split_bin", raw, out, "--overwrite") == 0
    expected = ["category.bin", "dense.bin", "keep.txt", "label.bin", "metadata.json"]
    assert sorted(os.listdir(out)) == expected
    assert run("per_table", raw, out, "--overwrite") == 0
    assert validate.validate(open_split(out), progress=False)[1] == []


def test_the_seed_benchmarks_split_is_not_ours(tmp_path, raw, capsys):
    out = tmp_path / "out"
    assert run("split_bin", raw, out) == 0
    seed = {"vocab_sizes": VOCAB_SIZES, "dense_log": True}
    (out / "metadata.json").write_text(json.dumps(seed))
    before = content(out)
    assert run("split_bin", raw, out, "--overwrite") == 2
    assert "this program did not write it" in capsys.readouterr().err
    assert content(out) == before


@pytest.mark.parametrize("tool", TOOLS)
def test_a_failing_overwrite_changes_nothing(tmp_path, raw, tool, monkeypatch):
    out = tmp_path / "out"
    assert run(tool, raw, out) == 0
    before = content(out)

    def fail(*_):
        raise KeyboardInterrupt

    from storage import partial_files

    monkeypatch.setattr(partial_files.PartialFiles, "write", fail)
    assert run(tool, raw, out, "--overwrite") == 130
    assert content(out) == before


def kill(tool, raw, out, function, number, *more):
    """Runs a tool that is killed before a call; returns whether there were so many calls."""
    name, arguments = command(tool, raw, out, *more)
    script = ["-m", "tests.support.dataset.killed_writer", function, str(number), name, *arguments]
    status = subprocess.run([sys.executable, *script], cwd=ROOT, capture_output=True).returncode
    assert status in (0, -signal.SIGKILL)
    return status != 0


# Before the first name is given, between names, before the last, and before the marker goes.
@pytest.mark.parametrize(
    ("tool", "function", "number"),
    [
        ("split_bin", "fsync", 2), ("split_bin", "replace", 0), ("split_bin", "replace", 2),
        ("split_bin", "replace", 3), ("per_table", "replace", 9), ("convert", "replace", 6),
        ("to_raw", "replace", 1), ("to_raw", "replace", 2), ("raw_file", "replace", 1),
        ("synthetic", "fsync", 2), ("synthetic", "replace", 0), ("synthetic", "replace", 1),
        ("synthetic", "replace", 2), ("synthetic", "replace", 3),
    ],
)  # fmt: skip
def test_a_killed_write_goes_on(tmp_path, raw, tool, function, number):
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    (out / "keep.txt").write_text("theirs")
    (tmp_path / "other").mkdir()
    assert kill(tool, raw, out, function, number)
    if tool in ("split_bin", "per_table"):
        with pytest.raises(Exception, match=r"unfinished split"):
            open_split(out, vocab_sizes=VOCAB_SIZES)
    assert run(tool, raw, out) == 0
    assert run(tool, raw, other) == 0
    left = content(out)
    assert left.pop("keep.txt") == b"theirs"
    # The temporary name of a small file that was just being written stays.
    assert {n: c for n, c in left.items() if not n.endswith(".partial")} == content(other)


def test_a_killed_overwrite_goes_on_in_another_layout(tmp_path, raw):
    out = tmp_path / "out"
    assert run("per_table", raw, out) == 0
    assert kill("per_table", raw, out, "replace", 3, "--overwrite")
    assert run("split_bin", raw, out) == 0
    expected = ["category.bin", "dense.bin", "label.bin", "metadata.json"]
    assert sorted(os.listdir(out)) == expected


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path, raw, capsys):
    out = tmp_path / "out"
    out.mkdir()
    with Claim(out):
        for tool in ("split_bin", "convert", "synthetic"):
            assert run(tool, raw, out) == 2
            message = f"{out}: another process is writing here: wait until it has ended"
            assert message in capsys.readouterr().err
    assert os.listdir(out) == []


def test_equal_vocabulary_sizes_of_the_users_stay_as_they_are(tmp_path, raw):
    out = tmp_path / "out"
    out.mkdir()
    text = json.dumps(VOCAB_SIZES, indent=3)
    (out / "vocab_sizes.json").write_text(text)
    assert run("to_raw", raw, out) == 0
    assert (out / "vocab_sizes.json").read_text() == text
    assert open_dataset(out)[0].vocab_sizes == VOCAB_SIZES


def test_a_second_raw_file_keeps_what_is_known_of_the_first(tmp_path, raw):
    out = tmp_path / "out"
    assert run("synthetic", raw, out) == 0
    known = json.loads((out / "generator.json").read_text())
    arguments = [str(raw / "test_data.bin"), str(out / "copy.bin"), "--layout=raw"]
    assert convert.main(arguments) == 0
    facts = json.loads((out / "generator.json").read_text())
    assert facts["files"].pop("copy.bin") == {"samples": 100, "attainable_auc": None}
    assert facts == known
