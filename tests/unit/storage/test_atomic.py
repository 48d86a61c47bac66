"""Atomic files and folders: complete under their name, or absent."""

import os

import pytest

from storage import atomic


def test_new_folder_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "a" / "b"
    with atomic.new_folder(target) as partial:
        assert os.listdir(target.parent) == [os.path.basename(partial)]
        open(os.path.join(partial, "file"), "x").close()
    assert [path.name for path in target.iterdir()] == ["file"]
    assert os.listdir(target.parent) == ["b"]


def test_new_folder_removes_its_folder_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic.new_folder(tmp_path / "a") as partial:
        open(os.path.join(partial, "file"), "x").close()
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a", ".a.PID.partial"])
def test_new_folder_keeps_existing_files(tmp_path, name):
    name = name.replace("PID", str(os.getpid()))
    (tmp_path / name).mkdir()
    (tmp_path / name / "keep.txt").write_text("theirs")
    with pytest.raises(FileExistsError), atomic.new_folder(tmp_path / "a"):
        pass
    assert os.listdir(tmp_path / name) == ["keep.txt"]


def test_new_folder_refuses_a_link(tmp_path):
    (tmp_path / "a").symlink_to("nowhere")
    with pytest.raises(FileExistsError), atomic.new_folder(tmp_path / "a"):
        pass


def test_write_new_refuses_an_existing_file(tmp_path):
    atomic.write_new(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        atomic.write_new(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"


def test_replacing_uses_the_given_temporary_name(tmp_path):
    target, partial = tmp_path / "note.json", tmp_path / "note.new"
    target.write_bytes(b"old")
    partial.write_bytes(b"left by a killed run")
    with atomic.replacing(target, partial) as file:
        file.write(b"new")
        assert sorted(os.listdir(tmp_path)) == ["note.json", "note.new"]
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    with pytest.raises(ZeroDivisionError), atomic.replacing(target, partial) as file:
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["note.json"]
    assert target.read_bytes() == b"new"


def test_replace_syncs_the_folder_after_the_rename(tmp_path, monkeypatch):
    done = []
    replace, fsync = os.replace, os.fsync

    def counted_replace(*names):
        done.append("rename")
        replace(*names)

    def counted_fsync(descriptor):
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "replace", counted_replace)
    monkeypatch.setattr(os, "fsync", counted_fsync)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    atomic.replace(tmp_path / "a", tmp_path / "b")
    assert done == ["rename", str(tmp_path)]
    assert os.listdir(tmp_path / "b") == ["file"]


def test_sync_tree_syncs_files_before_their_folder(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    (tmp_path / "one").write_bytes(b"12345")
    (tmp_path / "below" / "two").write_bytes(b"123")
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    assert atomic.sync_tree(tmp_path) == 8
    names = ["one", "", "below/two", "below"]
    assert synced == [str(tmp_path / name) for name in names]
