"""--flagfile: what a file of flags becomes, and what is wrong with one."""

import pytest

from training.flag_files import expand
from training.runtime.errors import UserError


@pytest.mark.parametrize("form", ["--flagfile={}", "-flagfile={}", "--flagfile {}"])
def test_flags_take_the_place_of_the_file(tmp_path, form):
    (tmp_path / "a").write_text("# first\n\n  --lr=1  \n// second\n--amp\n")
    words = form.format(tmp_path / "a").split()
    assert expand(["main.py", "--seed=1", *words, "--lr=2"]) == [
        "main.py", "--seed=1", "--lr=1", "--amp", "--lr=2",
    ]  # fmt: skip


def test_files_may_name_files(tmp_path):
    (tmp_path / "a").write_text(f"--lr=1\n--flagfile={tmp_path}/b\n--lr=3")
    (tmp_path / "b").write_text("\ufeff--lr=2\r\n")
    assert expand([f"--flagfile={tmp_path}/a"]) == ["--lr=1", "--lr=2", "--lr=3"]


def test_nothing_is_read_after_two_dashes():
    assert expand(["main.py", "--", "--flagfile=missing"]) == [
        "main.py",
        "--",
        "--flagfile=missing",
    ]


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").write_text("--lr=1")
    assert expand(["--flagfile=~/a"]) == ["--lr=1"]


def test_a_file_that_names_itself_is_an_error(tmp_path):
    (tmp_path / "a").write_text(f"--flagfile={tmp_path}/b")
    (tmp_path / "b").write_text(f"--flagfile={tmp_path}/a")
    with pytest.raises(UserError, match=r"a: names itself: .*a -> .*b -> .*a$"):
        expand([f"--flagfile={tmp_path}/a"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"--lr=1\n--flagfile\n", "a: line 2: expected --flagfile=FILE, found '--flagfile'"),
        (b"--lr=\xff", "is no text in UTF-8: byte 5 is 0xff"),
        (b"#" * (1 << 20) + b"#", "expected at most 1048576 bytes, found more"),
    ],
)
def test_what_is_no_file_of_flags_is_an_error(tmp_path, content, message):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UserError, match=message):
        expand([f"--flagfile={tmp_path}/a"])


def test_a_missing_name_is_an_error():
    with pytest.raises(UserError, match="--flagfile names no file"):
        expand(["main.py", "--flagfile"])
