"""Which checkpoints of a folder stay, go, and come back after a kill."""

import pytest

from training.checkpoint import folder


def make(parent, *names):
    for name in names:
        (parent / name).mkdir()
        (parent / name / "content").write_text(name)


def names(parent):
    return sorted(path.name for path in parent.iterdir())


def test_the_newest_stay(tmp_path):
    make(tmp_path, *(folder.name_of(step) for step in (10, 20, 30)), "notes")
    folder.prune(tmp_path, 2, 30)
    assert names(tmp_path) == ["notes", "step-000000020", "step-000000030"]


@pytest.mark.parametrize("keep", [1, 2])
def test_later_damaged_ones_never_push_out_the_one_just_written(tmp_path, keep):
    """A run that has gone on from step 10, since 40 and 50 were damaged, has written 20."""
    make(tmp_path, *(folder.name_of(step) for step in (10, 20, 40, 50)))
    folder.prune(tmp_path, keep, 20)
    kept = ["step-000000010", "step-000000020"][-keep:]
    assert names(tmp_path) == [*kept, "step-000000040", "step-000000050"]
    assert folder.checkpoints(tmp_path, up_to=20)[-1][0] == 20


def test_clean_removes_what_is_not_whole(tmp_path):
    make(
        tmp_path, "step-000000010", "step-000000010.replaced", "step-000000020.partial",
        "step-000000005.removed", "other.partial",
    )  # fmt: skip
    folder.clean(tmp_path)
    assert names(tmp_path) == ["other.partial", "step-000000010"]
    assert (tmp_path / "step-000000010" / "content").read_text() == "step-000000010"


@pytest.mark.parametrize("moment", ["before the new name", "before the old one is gone"])
def test_a_kill_while_replacing_leaves_one_of_both(tmp_path, monkeypatch, moment):
    make(tmp_path, "step-000000010", "step-000000010.partial")
    whole, partial = tmp_path / "step-000000010", tmp_path / "step-000000010.partial"

    class KilledError(Exception):
        pass

    def killed(*arguments, **options):
        raise KilledError

    if moment == "before the new name":
        rename = type(whole).rename
        monkeypatch.setattr(
            type(whole), "rename",
            lambda path, to: killed() if path == partial else rename(path, to),
        )  # fmt: skip
    else:
        monkeypatch.setattr(folder.shutil, "rmtree", killed)
    with pytest.raises(KilledError):
        folder.replace(partial, whole)
    monkeypatch.undo()
    folder.clean(tmp_path)
    assert names(tmp_path) == ["step-000000010"]
    expected = whole if moment == "before the new name" else partial
    assert (whole / "content").read_text() == expected.name
