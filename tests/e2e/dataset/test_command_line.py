"""How tools end: exit statuses, one line, and no traceback when nobody reads on."""

import contextlib
import os
import subprocess
import sys

import pytest

import preprocess
import split_bin
from dataset import command_line, convert, synthetic, validate
from dataset.errors import DatasetError
from dataset.preprocessing.errors import OptionError
from tests.support.paths import ROOT


def failing(error):
    def job():
        raise error

    return job


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (DatasetError("f: truncated"), 2, "tool: f: truncated\n"),
        (OptionError("--input: missing"), 2, "tool: --input: missing\n"),
        (OSError(28, "No space left on device", "f"), 2, "tool: f: No space left on device\n"),
        (FileExistsError(17, "File exists", "f"), 2, "tool: f: is a file: expected a folder\n"),
        (MemoryError("for 9 TiB"), 2, "tool: not enough memory: for 9 TiB\n"),
        (BrokenPipeError(32, "Broken pipe"), 2, "tool: Broken pipe\n"),  # not of standard output
        (KeyboardInterrupt(), 130, "tool: stopped\n"),
    ],
)
def test_what_the_user_can_put_right_is_one_line(capsys, error, status, line):
    assert command_line.run("tool", failing(error), interrupted="stopped") == status
    assert capsys.readouterr().err == line


def test_other_errors_stay_what_they_are():
    with pytest.raises(ZeroDivisionError):
        command_line.run("tool", failing(ZeroDivisionError()))
    assert command_line.run("tool", lambda: 7) == 7


@pytest.mark.parametrize("tool", [convert, preprocess, split_bin, synthetic, validate])
def test_an_unset_variable_is_no_path(tool, capsys):
    words = {
        convert: ["data", "", "--layout=raw"],
        preprocess: ["--input=days", "--output="],
        split_bin: ["", "train"],
        synthetic: ["--output=", "--train_samples=1", "--test_samples=1"],
        validate: [""],
    }
    with pytest.raises(SystemExit) as ended:
        tool.main(words[tool])
    assert ended.value.code == 2
    assert "expected a path, found nothing" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["0", "-2", "1e3", ""])
@pytest.mark.parametrize("tool", [convert, split_bin, validate])
def test_there_is_at_least_one_thread(tool, wrong, capsys):
    words = {convert: ["a", "b", "--layout=raw"], split_bin: ["a", "b"], validate: ["a"]}
    with pytest.raises(SystemExit) as ended:
        tool.main([*words[tool], f"--jobs={wrong}"])
    assert ended.value.code == 2
    message = f"argument --jobs: expected a whole number from 1 to 1024, found '{wrong}'"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("jobs", ["1025", "100000000", pytest.param("9" * 5000, id="long")])
@pytest.mark.parametrize("tool", [convert, split_bin, synthetic, validate])
def test_there_are_not_more_threads_than_any_machine_has_cores(tool, jobs, tmp_path, capsys):
    sizes = [str(tmp_path), "--train_samples=1", "--test_samples=1"]
    words = {
        convert: ["a", "b", "--layout=raw"],
        split_bin: ["a", "b"],
        synthetic: ["--output", *sizes],
        validate: ["a"],
    }
    with pytest.raises(SystemExit) as ended:
        tool.main([*words[tool], f"--jobs={jobs}"])
    assert ended.value.code == 2
    assert (
        "argument --jobs: expected a whole number from 1 to 1024, found" in capsys.readouterr().err
    )
    assert os.listdir(tmp_path) == []


@contextlib.contextmanager
def without_permission(folder):
    """A context in which this process may not read the folder, whoever runs the tests."""
    was_root = os.geteuid() == 0
    os.chmod(folder, 0)
    if was_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)
        os.chmod(folder, 0o700)


@pytest.mark.parametrize("tool", [convert, split_bin, validate])
@pytest.mark.parametrize("closed", ["", "train"])
def test_a_folder_without_permission_is_one_line(tool, closed, tmp_path, capsys):
    data = tmp_path / "data"
    (data / "train").mkdir(parents=True)
    (data / "test").mkdir()
    (data / "train" / "data.bin").touch()
    out = str(tmp_path / "out")
    words = {
        convert: [str(data), out, "--layout=three_file"],
        split_bin: [str(data / "train" / "data.bin"), out],
        validate: [str(data)],
    }
    # A folder above, or the tool could not get there at all.
    for parent in (tmp_path, *list(tmp_path.parents)[:-2]):
        parent.chmod(parent.stat().st_mode | 0o011)
    with without_permission(data / closed):
        assert tool.main(words[tool]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"{data / closed}" in message
    assert "Permission denied" in message
    assert not (tmp_path / "out").exists()


# 300 tables print more than Python's buffer holds: the error then comes before the end.
@pytest.mark.parametrize("tables", [3, 300])
def test_a_reader_that_goes_away_is_no_traceback(tmp_path, tables):
    synthetic.write_dataset(str(tmp_path), 99, 9, [7] * tables, progress=False)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "dataset.validate", str(tmp_path)],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert done.returncode == 141
    assert "Error" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("redirection", ["", ">&-", ">&- 2>&- <&-", ">/dev/full"])
def test_a_lost_standard_output_is_never_in_the_data(tmp_path, redirection):
    """A closed one's number goes to no file; a full one is told of once the data is written."""
    raw = tmp_path / "raw"
    synthetic.write_dataset(str(raw), 999, 9, [7, 900], progress=False)
    command = [sys.executable, "split_bin.py", str(raw / "train_data.bin"), str(tmp_path / "train")]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *command], cwd=ROOT,
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    full = redirection == ">/dev/full"
    assert done.returncode == (2 if full else 0), done.stderr
    if full:
        assert done.stderr.endswith("error: standard output: No space left on device\n")
    assert (done.stdout == "") == bool(redirection)
    assert validate.main([str(tmp_path / "train")]) == 0
