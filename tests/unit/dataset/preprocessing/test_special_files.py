"""Special files (pipes, sockets, devices, folders); damaged dictionaries and journals."""

import json
import os
import socket

import numpy as np
import pytest

from dataset.preprocessing import dictionaries, parquet_input, sources
from dataset.preprocessing.errors import DictionaryError, InputError, OutputError
from dataset.preprocessing.inputs import find_inputs
from dataset.preprocessing.output_folder import MANIFEST, OutputFolder
from dataset.preprocessing.stage_results import ParsedUnit
from dataset.preprocessing.stages import Stages, locked

pytestmark = pytest.mark.timeout(60)


def _socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # A socket's path must be short.
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


def _device(path):
    path.symlink_to("/dev/zero")


KINDS = {"a named pipe": os.mkfifo, "a socket": _socket, "a character device": _device}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name, given", [("day_0", "days"), ("day_0.gz", "days/day_*"), ("day_0/part-0.parquet", "days")]
)
def test_find_inputs_rejects_special_files(tmp_path, kind, name, given):
    path = tmp_path / "days" / name
    path.parent.mkdir(parents=True)
    KINDS[kind](path)
    with pytest.raises(InputError, match=kind) as caught:
        find_inputs(str(tmp_path / given))
    assert caught.value.path == str(path)


def test_find_inputs_rejects_a_name_that_is_not_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/day_0\xff"
    with open(path, "wb"):
        pass
    with pytest.raises(InputError) as caught:
        find_inputs(os.fsdecode(path))
    assert caught.value.path == os.fsdecode(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "read",
    [
        parquet_input.ranges,
        lambda path: list(sources.read_range(path, 0, 99)),
        lambda path: list(sources.read_compressed(path, "gzip")),
    ],
    ids=["parquet", "plain", "gzip"],
)
def test_readers_reject_a_day_that_became_a_special_file(tmp_path, kind, read):
    KINDS[kind](tmp_path / "day_0")
    with pytest.raises(InputError, match=kind) as caught:
        read(str(tmp_path / "day_0"))
    assert caught.value.path == str(tmp_path / "day_0")


@pytest.fixture
def dictionary(tmp_path, rng):
    """The folder of a dictionary."""
    folder = tmp_path / "dictionary"
    folder.mkdir()
    for column in range(26):
        values = rng.permutation(100)[: rng.integers(2, 20)]
        dictionaries.write_column(dictionaries.column_path(str(folder), column), values)
    dictionaries.write_manifest(str(folder), dictionaries.Rule(max_rows=100))
    return folder


def test_read_manifest_returns_rule_and_sizes(dictionary):
    rule, manifest = dictionaries.read_manifest(str(dictionary))
    assert (rule.name, rule.max_rows, rule.first_id) == ("modulo", 100, 0)
    sizes = [len(np.load(dictionary / f"C{i + 1}.npy")) for i in range(26)]
    assert [column["vocab_size"] for column in manifest["columns"]] == sizes


@pytest.mark.parametrize("kind", [*KINDS, "a folder", None])
@pytest.mark.parametrize("name", ["dictionary.json", "C26.npy"])
def test_read_manifest_rejects_special_and_missing_files(dictionary, kind, name):
    (dictionary / name).unlink()
    if kind is not None:
        {**KINDS, "a folder": os.mkdir}[kind](dictionary / name)
    with pytest.raises(DictionaryError, match=kind) as caught:
        dictionaries.read_manifest(str(dictionary))
    assert caught.value.path == str(dictionary / name)


def _changed(manifest, **facts):
    manifest["columns"][3].update(facts)
    return manifest


@pytest.mark.parametrize(
    "damage, field",
    [
        (lambda m: [], None),
        (lambda m: {**m, "format_version": 2}, "format_version"),
        (lambda m: {**m, "rule": "mod"}, "rule"),
        (lambda m: {**m, "max_table_rows": 2**31}, "max_table_rows"),
        (lambda m: {**m, "rule": "frequency"}, "frequency_threshold"),
        (lambda m: {**m, "columns": m["columns"][:25]}, "columns"),
        (lambda m: {**m, "columns": [1, 2] * 13}, "columns[0]"),
        (lambda m: _changed(m, entries=-1), "columns[3].entries"),
        (lambda m: _changed(m, vocab_size=10**9), "columns[3].vocab_size"),
        (lambda m: _changed(m, file="../C4.npy"), "columns[3].file"),
        (lambda m: _changed(m, crc32=2**32), "columns[3].crc32"),
    ],
)
def test_read_manifest_names_the_damaged_field(dictionary, damage, field):
    path = dictionary / "dictionary.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(DictionaryError) as caught:
        dictionaries.read_manifest(str(dictionary))
    assert (caught.value.path, caught.value.field) == (str(path), field)


def _save_header(path, shape):
    header = f"{{'descr': '<u4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(80))


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
def test_a_damaged_column_is_named(dictionary, write):
    path = dictionary / "C5.npy"
    write(path)
    for read in (dictionaries.read_manifest, lambda folder: dictionaries.load_column(folder, 4)):
        with pytest.raises(DictionaryError) as caught:
            read(str(dictionary))
        assert caught.value.path == str(path)


@pytest.mark.parametrize("kind", KINDS)
def test_journals_that_are_special_files_are_not_read(tmp_path, kind):
    (tmp_path / "stages").mkdir()
    for name in (MANIFEST, "lock", "stages/complete.json"):
        KINDS[kind](tmp_path / name)
    with pytest.raises(OutputError, match=kind) as caught:
        OutputFolder(str(tmp_path))
    assert caught.value.path == str(tmp_path / MANIFEST)
    with pytest.raises(OutputError) as caught:
        OutputFolder(str(tmp_path / "stages")).check(["complete.json"])
    assert caught.value.path == str(tmp_path / "stages" / "complete.json")
    with pytest.raises(OSError, match=kind), locked(str(tmp_path)):
        pass
    with pytest.raises(OSError, match=kind):
        Stages(str(tmp_path / "stages")).find("complete", {})


@pytest.mark.parametrize(
    "content, field",
    [
        ("{", None),
        ('{"format_version": 2, "complete": true, "files": {}}', "format_version"),
        ('{"format_version": 1, "complete": 1, "files": {}}', "complete"),
        ('{"format_version": 1, "complete": true, "files": {"a": 1}}', "files"),
    ],
)
def test_output_folder_names_the_damaged_field_of_its_list(tmp_path, content, field):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(OutputError) as caught:
        OutputFolder(str(tmp_path))
    assert caught.value.path == str(tmp_path / MANIFEST)
    if field is not None:
        assert caught.value.field.startswith(field)
    assert (tmp_path / MANIFEST).read_text() == content


_DENSE = {name: [0] * 13 for name in ("missing", "negative", "least", "greatest")}
_UNIT = {
    "parts": [], "rejects_path": None, "lines": 1, "rows": 1, "rejects": 0, "missing": [0] * 26,
    "dense": _DENSE, "byte_order_mark": False, "unterminated": False,
}  # fmt: skip
_STAGE = {"key": {"range": [0, 1]}, "outputs": [], "result": _UNIT}


@pytest.mark.parametrize(
    "damaged, field",
    [
        ([], None),
        ({"key": _STAGE["key"]}, "outputs"),
        ({**_STAGE, "outputs": [["a", 0, 1, "x"]]}, "outputs[0][3]"),
        ({**_STAGE, "result": 7}, "result"),
        ({**_STAGE, "result": {**_UNIT, "parts": [1, 2]}}, "parts[0]"),
        ({**_STAGE, "result": {**_UNIT, "rows": -1}}, "rows"),
        ({**_STAGE, "result": {**_UNIT, "missing": [1]}}, "missing"),
    ],
)
def test_stages_name_the_damaged_field(tmp_path, damaged, field):
    stages, path = Stages(str(tmp_path)), tmp_path / "parse.json"
    key = {"range": (0, 1)}
    stages.commit("parse", key, _UNIT)
    assert stages.find("parse", key, ParsedUnit) == _UNIT
    assert stages.find("parse", {"range": (0, 2)}, ParsedUnit) is None
    path.write_text(json.dumps(damaged))
    with pytest.raises(OutputError) as caught:
        stages.find("parse", key, ParsedUnit)
    assert (caught.value.path, caught.value.field) == (str(path), field)
