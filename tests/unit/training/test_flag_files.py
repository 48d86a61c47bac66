"""--flagfile: files of flags are expanded in place; invalid files are errors."""

import pytest

from training.flag_files import expand
from training.runtime.errors import UserError


@pytest.mark.parametrize("form", ["--flagfile={}", "-flagfile={}", "--flagfile {}"])
def test_flags_replace_the_flagfile(tmp_path, form):
    (tmp_path / "a").write_text("# first\n\n  --lr=1  \n// second\n--amp\n")
    words = form.format(tmp_path / "a").split()
    assert expand(["main.py", "--seed=1", *words, "--lr=2"]) == [
        "main.py", "--seed=1", "--lr=1", "--amp", "--lr=2",
    ]  # fmt: skip


def test_flagfile_may_include_flagfiles(tmp_path):
    (tmp_path / "a").write_text(f"--lr=1\n--flagfile={tmp_path}/b\n--lr=3")
    (tmp_path / "b").write_text("\ufeff--lr=2\r\n")
    assert expand([f"--flagfile={tmp_path}/a"]) == ["--lr=1", "--lr=2", "--lr=3"]


def test_flagfile_after_two_dashes_is_not_read():
    assert expand(["main.py", "--", "--flagfile=missing"]) == [
        "main.py",
        "--",
        "--flagfile=missing",
    ]


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").write_text("--lr=1")
    assert expand(["--flagfile=~/a"]) == ["--lr=1"]


def error_of(arguments):
    with pytest.raises(UserError) as caught:
        expand(arguments)
    assert caught.value.flag == "flagfile"
    return caught.value


def test_file_that_includes_itself_is_an_error(tmp_path):
    (tmp_path / "a").write_text(f"--flagfile={tmp_path}/b")
    (tmp_path / "b").write_text(f"--flagfile={tmp_path}/a")
    error = error_of([f"--flagfile={tmp_path}/a"])
    assert error.path == f"{tmp_path}/a"
    assert f"{tmp_path}/a -> {tmp_path}/b -> {tmp_path}/a" in str(error)


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        (b"--lr=1\n--flagfile\n", {"line": 2}),
        (b"--lr=\xff", {}),
        (b"#" * (1 << 20) + b"#", {"bound": 1 << 20}),
    ],
)
def test_invalid_file_is_an_error(tmp_path, content, fields):
    (tmp_path / "a").write_bytes(content)
    error = error_of([f"--flagfile={tmp_path}/a"])
    assert error.path == f"{tmp_path}/a"
    assert fields.items() <= error.fields.items()


def test_missing_file_is_an_error(tmp_path):
    assert error_of([f"--flagfile={tmp_path}/a"]).path == f"{tmp_path}/a"
    error_of(["main.py", "--flagfile"])
