"""The tools' command lines: exit statuses, one-line errors, argument checks."""

import contextlib
import os

import pytest

import preprocess
import split_bin
from dataset import command_line, convert, synthetic, validate
from dataset.errors import DatasetError
from dataset.preprocessing.errors import OptionError


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
        (BrokenPipeError(32, "Broken pipe"), 2, "tool: Broken pipe\n"),  # not standard output
        (KeyboardInterrupt(), 130, "tool: stopped\n"),
    ],
)
def test_run_reports_errors_in_one_line(capsys, error, status, line):
    assert command_line.run("tool", failing(error), interrupted="stopped") == status
    assert capsys.readouterr().err == line


def test_run_propagates_other_errors():
    with pytest.raises(ZeroDivisionError):
        command_line.run("tool", failing(ZeroDivisionError()))
    assert command_line.run("tool", lambda: 7) == 7


@pytest.mark.parametrize(("tool", "words"), [
    (convert, ["data", "", "--layout=raw"]), (preprocess, ["--input=days", "--output="]),
    (split_bin, ["", "train"]), (validate, [""]),
    (synthetic, ["--output=", "--train_samples=1", "--test_samples=1"]),
])  # fmt: skip
def test_tools_refuse_an_empty_path(tool, words, capsys):
    with pytest.raises(SystemExit) as ended:
        tool.main(words)
    assert ended.value.code == 2
    assert "path" in capsys.readouterr().err


@pytest.mark.parametrize(("tool", "words"), [
    (convert, ["a", "b", "--layout=raw"]), (split_bin, ["a", "b"]), (validate, ["a"]),
    (synthetic, ["--output=a", "--train_samples=1", "--test_samples=1"]),
])  # fmt: skip
def test_tools_refuse_a_wrong_number_of_threads(tool, words, capsys):
    for jobs in ("0", "1025"):
        with pytest.raises(SystemExit) as ended:
            tool.main([*words, f"--jobs={jobs}"])
        assert ended.value.code == 2
        message = capsys.readouterr().err
        assert "--jobs" in message and "1024" in message


@contextlib.contextmanager
def without_permission(folder):
    """A context in which this process may not read the folder, even if it runs as root."""
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
def test_tools_report_a_folder_without_permission_in_one_line(tool, closed, tmp_path, capsys):
    data = tmp_path / "data"
    (data / "train").mkdir(parents=True)
    (data / "test").mkdir()
    (data / "train" / "data.bin").touch()
    out = str(tmp_path / "out")
    words = {
        convert: [str(data), out, "--layout=three_file"],
        split_bin: [str(data / "train" / "data.bin"), out], validate: [str(data)],
    }  # fmt: skip
    # The tool must be able to enter the folders above.
    for parent in (tmp_path, *list(tmp_path.parents)[:-2]):
        parent.chmod(parent.stat().st_mode | 0o011)
    with without_permission(data / closed):
        assert tool.main(words[tool]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"{data / closed}" in message
    assert "Permission denied" in message
    assert not (tmp_path / "out").exists()
