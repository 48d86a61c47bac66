"""Listing, pruning, cleaning and replacing the checkpoints of a folder."""

import pathlib

import pytest

from training.checkpoint import folder, ownership
from training.checkpoint.checksums import CHECKSUMS


def make(parent, *names):
    for name in names:
        (parent / name).mkdir()
        (parent / name / "manifest.json").write_text(name)


def names(parent):
    return sorted(path.name for path in parent.iterdir())


def test_prune_keeps_the_newest(tmp_path):
    make(tmp_path, *(folder.name_of(step) for step in (10, 20, 30)), "notes")
    folder.prune(tmp_path, 2, 30)
    assert names(tmp_path) == ["notes", "step-000000020", "step-000000030"]


@pytest.mark.parametrize("keep", [1, 2])
def test_prune_does_not_count_later_damaged_checkpoints(tmp_path, keep):
    """A run that resumed from step 10, because 40 and 50 were damaged, has written 20."""
    make(tmp_path, *(folder.name_of(step) for step in (10, 20, 40, 50)))
    folder.prune(tmp_path, keep, 20)
    kept = ["step-000000010", "step-000000020"][-keep:]
    assert names(tmp_path) == [*kept, "step-000000040", "step-000000050"]
    assert folder.checkpoints(tmp_path, up_to=20)[-1][0] == 20


OURS = (
    "table_00.rank_0.npy", "table_25.accumulator.rank_127.npy", "dense.03.bottom_dense_1_bias.npy",
    "optimizer.00.iteration.npy", "loss_scale.good_steps.npy", ".rank-3.json", ".rank-3.new",
    "manifest.json", CHECKSUMS,
)  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_remove_deletes_every_file_of_a_checkpoint(tmp_path, name):
    (tmp_path / "step-000000001").mkdir()
    (tmp_path / "step-000000001" / name).touch()
    assert ownership.foreign(tmp_path / "step-000000001") is None
    ownership.remove(tmp_path / "step-000000001")
    assert names(tmp_path) == []


KEPT = {
    "keep.txt": pathlib.Path.touch,
    "weights.npy": pathlib.Path.touch,
    "table_00.rank_0.npy": pathlib.Path.mkdir,
    "dense.00.x.npy": lambda path: path.symlink_to("/nowhere"),
}


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("suffix", ["", ".partial", ".removed", ".replaced"])
def test_foreign_files_are_never_removed(tmp_path, kept, suffix):
    name = f"step-000000001{suffix}"
    make(tmp_path, name, "step-000000002", "step-000000003", "step-000000004")
    path = tmp_path / name
    KEPT[kept](path / kept)
    assert folder.foreign(tmp_path) == [(1, path, f"holds {kept}")]
    if suffix == ".replaced":
        (tmp_path / "step-000000001").mkdir()  # Otherwise `clean` renames it back.
    folder.clean(tmp_path)
    folder.prune(tmp_path, 1, 4)
    ownership.remove(path)
    assert names(path) == [kept]
    assert "step-000000004" in names(tmp_path)
    assert not {"step-000000002", "step-000000003"} & set(names(tmp_path))


@pytest.mark.parametrize("suffix", ["", ".partial"])
def test_files_and_links_with_a_checkpoints_name_are_foreign(tmp_path, suffix):
    make(tmp_path, "elsewhere", "step-000000009")
    (tmp_path / f"step-000000001{suffix}").symlink_to("elsewhere")
    (tmp_path / f"step-000000002{suffix}").write_text("theirs")
    before = names(tmp_path)
    found = [(step, why) for step, _, why in folder.foreign(tmp_path)]
    assert found == [(1, "is a symbolic link"), (2, "is not a folder")]
    folder.clean(tmp_path)
    folder.prune(tmp_path, 1, 9)
    ownership.remove(tmp_path / f"step-000000001{suffix}")
    assert names(tmp_path) == before
    assert names(tmp_path / "elsewhere") == ["manifest.json"]


def test_prune_removes_a_checkpoint_whose_temporary_name_is_taken(tmp_path):
    make(tmp_path, "step-000000001", "step-000000001.removed", "step-000000002")
    (tmp_path / "step-000000001.removed" / "keep.txt").touch()
    folder.prune(tmp_path, 1, 2)
    assert names(tmp_path) == ["step-000000001.removed", "step-000000002"]


def test_files_with_a_checksum_belong_to_the_checkpoint(tmp_path):
    make(tmp_path, "step-000000001")
    path = tmp_path / "step-000000001"
    (path / "keep.txt").touch()
    (path / CHECKSUMS).write_text(f"{'0' * 64}  keep.txt\n")
    assert ownership.foreign(path) is None


def test_checkpoints_excludes_foreign_folders(tmp_path):
    make(tmp_path, "step-000000001", "step-000000003")
    (tmp_path / "step-000000002").mkdir()
    for step in (2, 3):  # Alone, and next to the files of a checkpoint.
        (tmp_path / folder.name_of(step) / "keep.txt").touch()
    assert [step for step, _ in folder.checkpoints(tmp_path)] == [1, 3]


def test_clean_removes_unfinished_checkpoints(tmp_path):
    make(
        tmp_path, "step-000000010", "step-000000010.replaced", "step-000000020.partial",
        "step-000000005.removed", "other.partial",
    )  # fmt: skip
    folder.clean(tmp_path)
    assert names(tmp_path) == ["other.partial", "step-000000010"]
    assert (tmp_path / "step-000000010" / "manifest.json").read_text() == "step-000000010"


@pytest.mark.parametrize(
    ("module", "name", "suffix"),
    [(folder.atomic, "replace", ""), (ownership, "remove", ".partial")],
)
def test_a_kill_during_replace_leaves_one_of_both(tmp_path, monkeypatch, module, name, suffix):
    make(tmp_path, "step-000000010", "step-000000010.partial")
    target, partial = tmp_path / "step-000000010", tmp_path / "step-000000010.partial"

    monkeypatch.setattr(module, name, lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        folder.replace(partial, target)
    monkeypatch.undo()
    folder.clean(tmp_path)
    assert names(tmp_path) == ["step-000000010"]
    assert (target / "manifest.json").read_text() == target.name + suffix
