"""Folders and files that are there whole or not at all."""

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


def test_new_folder_is_gone_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic.new_folder(tmp_path / "a") as partial:
        open(os.path.join(partial, "file"), "x").close()
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a", ".a.PID.partial"])
def test_new_folder_leaves_what_is_there(tmp_path, name):
    name = name.replace("PID", str(os.getpid()))
    (tmp_path / name).mkdir()
    (tmp_path / name / "keep.txt").write_text("theirs")
    with pytest.raises(FileExistsError), atomic.new_folder(tmp_path / "a"):
        pass
    assert os.listdir(tmp_path / name) == ["keep.txt"]


def test_new_folder_refuses_a_link(tmp_path):
    (tmp_path / "a").symlink_to("nowhere")
    with pytest.raises(FileExistsError, match="exists already"), atomic.new_folder(tmp_path / "a"):
        pass
