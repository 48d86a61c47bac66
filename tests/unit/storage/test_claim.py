"""Claims: what is ours is replaced, what is not stays, and nobody writes at the same time."""

import os
import subprocess
import sys

import pytest

from storage.claim import MARKER, PARTIAL, Claim, ClaimError, is_unfinished, own_folder


def write(path, text="theirs"):
    path.write_text(text)
    return path


class KilledError(Exception):
    pass


def kill_while_writing(folder, names, done):
    """Leaves what a process leaves that was killed when `done` of the names had their files."""
    claim = Claim(folder)
    claim.__enter__()
    claim.take(names)
    for name in names:
        write(folder / (name if name in done else name + PARTIAL), "left")
    os.close(claim._descriptor)


def test_a_marker_is_there_while_files_are_written(tmp_path):
    with Claim(tmp_path) as claim:
        claim.take(["a", "b"])
        assert is_unfinished(tmp_path)
        assert (tmp_path / MARKER).read_text().splitlines()[1:] == ["a", "b"]
        write(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["a", "b", "a.partial", "b.partial"])
def test_what_somebody_else_wrote_is_refused(tmp_path, name):
    write(tmp_path / name)
    refused = pytest.raises(ClaimError, match="this program did not write it")
    with refused as raised, Claim(tmp_path) as claim:
        claim.take(["a", "b"])
    assert raised.value.filename == str(tmp_path / name)
    assert (tmp_path / name).read_text() == "theirs"
    assert os.listdir(tmp_path) == [name]


def make_link(path):
    path.symlink_to(write(path.parent / "target"))


@pytest.mark.parametrize(
    ("make", "found"),
    [(os.mkdir, "is a folder"), (os.mkfifo, "is a special file"), (make_link, "a symbolic link")],
)
def test_only_regular_files_are_ever_owned(tmp_path, make, found):
    make(tmp_path / "a")
    with pytest.raises(ClaimError, match=found), Claim(tmp_path) as claim:
        claim.take(["a"], owned=["a"])
    assert os.path.lexists(tmp_path / "a")


def test_owned_files_may_be_replaced(tmp_path):
    write(tmp_path / "a")
    with Claim(tmp_path) as claim:
        claim.take(["a"], owned=["a"])
        write(tmp_path / "a", "ours")
    assert os.listdir(tmp_path) == ["a"]


def test_a_killed_write_goes_on(tmp_path):
    kill_while_writing(tmp_path, ["a", "b"], done=["a"])
    write(tmp_path / "c")
    with Claim(tmp_path) as claim:
        assert claim.left == {"a", "b"}
        claim.take(["a", "b"])
        assert sorted(os.listdir(tmp_path)) == [MARKER, "a", "c"]
        with pytest.raises(ClaimError, match="did not write it"):
            claim.take(["c"])
    assert sorted(os.listdir(tmp_path)) == ["a", "c"]


def test_names_of_a_killed_write_outlive_the_next_one_that_is_killed(tmp_path):
    kill_while_writing(tmp_path, ["a", "b"], done=["a", "b"])
    kill_while_writing(tmp_path, ["c"], done=["c"])
    with Claim(tmp_path) as claim:
        assert claim.left == {"a", "b", "c"}
        claim.remove(claim.left)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("left", "whole", "marked"),
    [([], False, False), (["a"], False, True), (["a.partial"], False, True), (["a"], True, False)],
)
def test_an_error_keeps_the_marker_of_what_is_left(tmp_path, left, whole, marked):
    with pytest.raises(KilledError), Claim(tmp_path, whole=lambda: whole) as claim:
        claim.take(["a"])
        for name in left:
            write(tmp_path / name)
        raise KilledError
    assert is_unfinished(tmp_path) == marked


def test_two_processes_do_not_write_the_same_files(tmp_path):
    other = (
        "import sys; from storage.claim import Claim, ClaimError\n"
        "try:\n with Claim(sys.argv[1]): print('claimed')\n"
        "except ClaimError as error: print(error.strerror)\n"
    )

    def run_other():
        command = [sys.executable, "-c", other, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with Claim(tmp_path) as claim:
        claim.take(["a"])
        assert "another process is writing here" in run_other()
        with Claim(tmp_path, marker=".b.incomplete"):  # of another file
            pass
    assert run_other() == "claimed\n"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", ["notes\n", "\n", "DLRM: other\n", "DLRMx"])
def test_a_marker_that_is_somebody_elses_file_is_refused(tmp_path, content):
    write(tmp_path / MARKER, content)
    with pytest.raises(ClaimError, match="did not write it"), Claim(tmp_path):
        pass
    assert (tmp_path / MARKER).read_text() == content


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, make_link])
def test_a_marker_that_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / MARKER)
    with pytest.raises(ClaimError), Claim(tmp_path):
        pass
    assert os.path.lexists(tmp_path / MARKER)


def test_a_marker_that_a_power_failure_has_cut_is_ours(tmp_path):
    kill_while_writing(tmp_path, ["a", "bcd"], done=["a"])
    os.unlink(tmp_path / "bcd.partial")
    whole = (tmp_path / MARKER).read_bytes()
    for size in range(len(whole)):
        (tmp_path / MARKER).write_bytes(whole[:size])
        claim = Claim(tmp_path)
        with claim:
            assert claim.left <= {"a", "bcd"}
            claim.take(["bcd"])
            assert (tmp_path / MARKER).read_text().splitlines()[-1] == "bcd"


def test_a_marker_names_files_of_its_folder_alone(tmp_path):
    kill_while_writing(tmp_path, ["a"], done=["a"])
    with open(tmp_path / MARKER, "a") as file:
        file.write("../b\n")
    with pytest.raises(ClaimError, match="did not write it"), Claim(tmp_path):
        pass


def test_own_folder_is_made_and_found_again(tmp_path):
    folder = tmp_path / "a" / "b"
    own_folder(folder, ".ours")
    write(folder / "c")
    own_folder(folder, ".ours")
    assert sorted(os.listdir(folder)) == [".ours", "c"]


def test_own_folder_refuses_what_holds_somebody_elses_files(tmp_path):
    write(tmp_path / "a")
    with pytest.raises(ClaimError, match="name a new folder"):
        own_folder(tmp_path, ".ours")
    assert os.listdir(tmp_path) == ["a"]
