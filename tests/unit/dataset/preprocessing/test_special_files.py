"""Named pipes, sockets, devices and folders in place of files: refused in one line, never read."""

import json
import os
import socket

import numpy as np
import pytest

import preprocess as command
from dataset.preprocessing import dictionaries, sources
from dataset.preprocessing.errors import DictionaryError, InputError
from tests.support.dataset.preprocessing.fixtures import random_lines, write_days

pytestmark = pytest.mark.timeout(60)


def _pipe(path):
    os.mkfifo(path)


def _socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # A socket's path is short.
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


def _device(path):
    path.symlink_to("/dev/zero")


def _folder(path):
    path.mkdir()


KINDS = {"a named pipe": _pipe, "a socket": _socket, "a character device": _device}


def _run(capsys, *flags):
    """Runs the command; returns its one line of error."""
    capsys.readouterr()
    assert command.main([*flags, "--jobs=1", "--memory_limit=1GiB", "--max_table_rows=100"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    return error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name, given",
    [
        ("day_0", "days"),
        ("day_0", "days/day_0"),
        ("day_0", "days/day_*"),
        ("day_0.gz", "days"),
        ("day_0.zst", "days/day_0.zst"),
        ("day_0.parquet", "days"),
        ("day_0/part-0", "days"),
        ("day_0/part-0.parquet", "days/*"),
    ],
)
def test_days(tmp_path, capsys, kind, name, given):
    path = tmp_path / "days" / name
    path.parent.mkdir(parents=True)
    KINDS[kind](path)
    flags = ["--input", str(tmp_path / given), "--output", str(tmp_path / "out")]
    error = _run(capsys, *flags, "--train_days=0", "--test_day=none")
    assert f"{path}: cannot be read: is {kind}: expected a regular file" in error
    assert not (tmp_path / "out").exists()


def test_a_folder_in_the_folder_of_a_day_is_not_passed_over(tmp_path, capsys):
    (tmp_path / "days" / "day_0" / "more").mkdir(parents=True)
    (tmp_path / "days" / "day_0" / "part-0").write_text(random_lines(1, 1)[0] + "\n")
    flags = ["--input", str(tmp_path / "days"), "--output", str(tmp_path / "out")]
    error = _run(capsys, *flags, "--train_days=0", "--test_day=none")
    assert "day_0/more: cannot be read: is a folder: expected a regular file" in error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["day_0", "day_0.gz", "day_0.zst", "day_0.parquet"])
def test_days_that_change_after_they_were_found(tmp_path, kind, name):
    path = tmp_path / name
    KINDS[kind](path)
    if name.endswith(".parquet"):
        from dataset.preprocessing import parquet_input

        with pytest.raises(InputError, match=f"{path}: not a readable Parquet file: is {kind}"):
            parquet_input.ranges(str(path))
        return
    form = {"day_0.gz": "gzip", "day_0.zst": "zstd"}.get(name)
    blocks = (
        sources.read_compressed(str(path), form) if form else sources.read_range(str(path), 0, 99)
    )
    with pytest.raises(InputError, match=f"{path}: cannot be read: is {kind}"):
        list(blocks)


@pytest.mark.parametrize("kind", [*KINDS, "a folder"])
@pytest.mark.parametrize("name", ["dictionary.json", "C1.npy", "C26.npy"])
def test_dictionaries(tmp_path, capsys, preprocess, kind, name):
    write_days(tmp_path, random_lines(1, 20))
    preprocess(train_days=(0,))
    path = tmp_path / "out" / "dictionary" / name
    path.unlink()
    {**KINDS, "a folder": _folder}[kind](path)
    flags = ["--input", str(tmp_path / "days"), "--output", str(tmp_path / "later")]
    flags += ["--train_days=0", "--test_day=none", "--dictionary", str(path.parent)]
    capsys.readouterr()
    assert command.main([*flags, "--jobs=1"]) == 2
    error = capsys.readouterr().err
    assert f"{path}: cannot be read: is {kind}: expected a regular file\n" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["preprocess.json", ".preprocess/lock", "stage"])
def test_journals(tmp_path, capsys, preprocess, kind, name):
    write_days(tmp_path, random_lines(1, 20))
    preprocess(train_days=(0,))
    path = tmp_path / "out" / name
    if name == "stage":
        path = tmp_path / "out" / ".preprocess" / "stages" / "complete.json"
    path.unlink()
    KINDS[kind](path)
    flags = ["--input", str(tmp_path / "days"), "--output", str(tmp_path / "out")]
    error = _run(capsys, *flags, "--train_days=0", "--test_day=none", "--overwrite")
    assert f"{path}: " in error and f"is {kind}: expected a regular file" in error


@pytest.mark.parametrize("kind", KINDS)
def test_outputs(tmp_path, capsys, kind):
    write_days(tmp_path, random_lines(1, 20))
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "train_data.bin.partial"
    KINDS[kind](path)
    flags = ["--input", str(tmp_path / "days"), "--output", str(tmp_path / "out"), "--overwrite"]
    error = _run(capsys, *flags, "--train_days=0", "--test_day=none")
    assert f"{path}: was not written by preprocess.py" in error


@pytest.mark.parametrize(
    "damage, line",
    [
        (lambda m: [], "expected object, found a list of 0"),
        (lambda m: {**m, "format_version": 2}, "format_version: "),
        (lambda m: {**m, "rule": "mod"}, "rule: expected one of modulo, frequency, found 'mod'"),
        (lambda m: {**m, "max_table_rows": "9"}, "max_table_rows: expected int, found '9'"),
        (lambda m: {**m, "max_table_rows": 0}, "max_table_rows: "),
        (lambda m: {**m, "rule": "frequency"}, "frequency_threshold: is missing"),
        (lambda m: {**m, "columns": m["columns"][:25]}, "columns: expected list of length >= 26"),
        (lambda m: {**m, "columns": [1, 2] * 13}, "columns[0]: expected object, found 1"),
        (lambda m: _changed(m, entries=-1), "columns[3].entries: "),
        (lambda m: _changed(m, vocab_size=10**9), "columns[3].vocab_size: expected "),
        (lambda m: _changed(m, file="../C4.npy"), "columns[3].file: expected 'C4.npy', found '../"),
        (lambda m: _changed(m, crc32=2**32), "columns[3].crc32: "),
        (lambda m: _nested(100_000), "is nested too deep"),
        (lambda m: {**m, "note": "x" * 100_000}, "expected texts of at most"),
        (lambda m: "x" * (17 << 20), "expected at most 16777216 bytes"),
    ],
)
def test_a_damaged_dictionary_names_its_field(tmp_path, capsys, preprocess, damage, line):
    write_days(tmp_path, random_lines(1, 20))
    preprocess(train_days=(0,))
    path = tmp_path / "out" / "dictionary" / "dictionary.json"
    damaged = damage(json.loads(path.read_text()))
    path.write_text(damaged if isinstance(damaged, str) else json.dumps(damaged))
    flags = ["--input", str(tmp_path / "days"), "--output", str(tmp_path / "later"), "--jobs=1"]
    flags += ["--train_days=0", "--test_day=none", "--dictionary", str(path.parent)]
    capsys.readouterr()
    assert command.main(flags) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"preprocess.py: {path}: {line}"), error
    assert error.count("\n") == 1


def _changed(manifest, **facts):
    manifest["columns"][3].update(facts)
    return manifest


def _nested(depth):
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-4]),
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(40)),
        lambda path: np.save(path, np.array([{}], object)),
        lambda path: np.save(path, np.zeros(3, np.int64)),
        lambda path: np.save(path, np.zeros((2, 2), np.uint32)),
        lambda path: _save_header(path, "(9223372036854775807,)"),
        lambda path: _save_header(path, "(-1,)"),
    ],
)
def test_a_damaged_column_is_named(tmp_path, capsys, preprocess, write):
    write_days(tmp_path, random_lines(1, 20))
    preprocess(train_days=(0,))
    path = tmp_path / "out" / "dictionary" / "C5.npy"
    write(path)
    flags = ["--input", str(tmp_path / "days"), "--output", str(tmp_path / "later"), "--jobs=1"]
    flags += ["--train_days=0", "--test_day=none", "--dictionary", str(path.parent)]
    capsys.readouterr()
    assert command.main(flags) == 2
    error = capsys.readouterr().err
    assert error == f"preprocess.py: {path}: damaged: its checksum is not the recorded one\n"
    with pytest.raises(DictionaryError, match=f"{path}: (damaged: |expected a vector of uint32)"):
        dictionaries.load_column(str(path.parent), 4)


def _save_header(path, shape):
    header = f"{{'descr': '<u4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(80))


def test_a_name_that_is_not_text_is_refused(tmp_path, capsys):
    folder = os.fsencode(tmp_path) + b"/days\xff"
    os.mkdir(folder)
    with open(folder + b"/day_0", "w") as file:
        file.write(random_lines(1, 1)[0] + "\n")
    flags = ["--input", os.fsdecode(folder), "--output", str(tmp_path / "out")]
    error = _run(capsys, *flags, "--train_days=0", "--test_day=none")
    assert "the name is not text in UTF-8: rename the file" in error
