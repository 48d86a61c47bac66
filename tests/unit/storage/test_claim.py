"""Claims: own files are replaced, other files stay, and one process writes at a time."""

import errno
import os

import pytest

from storage.claim import MARKER, PARTIAL, Claim, ClaimError, is_unfinished, make_owned_folder


def write(path, text="theirs"):
    path.write_text(text)
    return path


def kill_while_writing(folder, names, done):
    """Leaves the state of a process that was killed after it had completed the files `done`."""
    claim = Claim(folder)
    claim.__enter__()
    claim.take(names)
    for name in names:
        write(folder / (name if name in done else name + PARTIAL), "left")
    os.close(claim._descriptor)


def test_claim_keeps_a_marker_while_files_are_written(tmp_path):
    with Claim(tmp_path) as claim:
        claim.take(["a", "b"])
        assert is_unfinished(tmp_path)
        assert (tmp_path / MARKER).read_text().splitlines()[1:] == ["a", "b"]
        write(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["a", "b", "a.partial", "b.partial"])
def test_take_refuses_files_of_others(tmp_path, name):
    write(tmp_path / name)
    with pytest.raises(ClaimError) as caught, Claim(tmp_path) as claim:
        claim.take(["a", "b"])
    assert caught.value.filename == str(tmp_path / name)
    assert (tmp_path / name).read_text() == "theirs"
    assert os.listdir(tmp_path) == [name]


def make_link(path):
    path.symlink_to(write(path.parent / "target"))


@pytest.mark.parametrize(
    ("make", "found"),
    [(os.mkdir, "folder"), (os.mkfifo, "special file"), (make_link, "symbolic link")],
)
def test_take_refuses_owned_names_that_are_not_regular_files(tmp_path, make, found):
    make(tmp_path / "a")
    with pytest.raises(ClaimError, match=found), Claim(tmp_path) as claim:
        claim.take(["a"], owned=["a"])
    assert os.path.lexists(tmp_path / "a")


def test_take_allows_replacing_owned_files(tmp_path):
    write(tmp_path / "a")
    with Claim(tmp_path) as claim:
        claim.take(["a"], owned=["a"])
        write(tmp_path / "a", "ours")
    assert os.listdir(tmp_path) == ["a"]


def test_claim_finds_and_replaces_leftovers_of_a_killed_process(tmp_path):
    kill_while_writing(tmp_path, ["a", "b"], done=["a"])
    write(tmp_path / "c")
    with Claim(tmp_path) as claim:
        assert claim.leftovers == {"a", "b"}
        claim.take(["a", "b"])
        assert sorted(os.listdir(tmp_path)) == [MARKER, "a", "c"]
        with pytest.raises(ClaimError):
            claim.take(["c"])
    assert sorted(os.listdir(tmp_path)) == ["a", "c"]


def test_claim_finds_leftovers_of_two_killed_processes(tmp_path):
    kill_while_writing(tmp_path, ["a", "b"], done=["a", "b"])
    kill_while_writing(tmp_path, ["c"], done=["c"])
    with Claim(tmp_path) as claim:
        assert claim.leftovers == {"a", "b", "c"}
        claim.remove(claim.leftovers)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("left", "complete", "marked"),
    [([], False, False), (["a"], False, True), (["a.partial"], False, True), (["a"], True, False)],
)
def test_error_keeps_the_marker_of_incomplete_files(tmp_path, left, complete, marked):
    with pytest.raises(ZeroDivisionError), Claim(tmp_path, is_complete=lambda: complete) as claim:
        claim.take(["a"])
        for name in left:
            write(tmp_path / name)
        raise ZeroDivisionError
    assert is_unfinished(tmp_path) == marked


def test_second_claim_of_the_same_files_is_refused(tmp_path):
    with Claim(tmp_path) as claim:
        claim.take(["a"])
        with pytest.raises(ClaimError) as caught, Claim(tmp_path):
            pass
        assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, str(tmp_path))
        with Claim(tmp_path, marker=".b.incomplete"):  # claims another file
            pass
    with Claim(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", ["notes\n", "\n", "DLRM: other\n", "DLRMx"])
def test_claim_refuses_a_marker_with_other_content(tmp_path, content):
    write(tmp_path / MARKER, content)
    with pytest.raises(ClaimError), Claim(tmp_path):
        pass
    assert (tmp_path / MARKER).read_text() == content


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, make_link])
def test_claim_refuses_a_marker_that_is_not_a_regular_file(tmp_path, make):
    make(tmp_path / MARKER)
    with pytest.raises(ClaimError), Claim(tmp_path):
        pass
    assert os.path.lexists(tmp_path / MARKER)


def test_claim_accepts_a_truncated_marker(tmp_path):
    kill_while_writing(tmp_path, ["a", "bcd"], done=["a"])
    os.unlink(tmp_path / "bcd.partial")
    complete = (tmp_path / MARKER).read_bytes()
    for size in range(0, len(complete), 3):
        (tmp_path / MARKER).write_bytes(complete[:size])
        claim = Claim(tmp_path)
        with claim:
            assert claim.leftovers <= {"a", "bcd"}
            claim.take(["bcd"])
            assert (tmp_path / MARKER).read_text().splitlines()[-1] == "bcd"


def test_claim_refuses_a_marker_that_names_other_folders(tmp_path):
    kill_while_writing(tmp_path, ["a"], done=["a"])
    with open(tmp_path / MARKER, "a") as file:
        file.write("../b\n")
    with pytest.raises(ClaimError), Claim(tmp_path):
        pass


def test_make_owned_folder_accepts_its_own_folder(tmp_path):
    folder = tmp_path / "a" / "b"
    make_owned_folder(folder, ".ours")
    write(folder / "c")
    make_owned_folder(folder, ".ours")
    assert sorted(os.listdir(folder)) == [".ours", "c"]


def test_make_owned_folder_refuses_a_folder_with_other_files(tmp_path):
    write(tmp_path / "a")
    with pytest.raises(ClaimError) as caught:
        make_owned_folder(tmp_path, ".ours")
    assert caught.value.filename == str(tmp_path)
    assert os.listdir(tmp_path) == ["a"]
