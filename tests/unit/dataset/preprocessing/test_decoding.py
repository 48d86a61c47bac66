"""The C++ line decoder against plain Python."""

import ctypes

import numpy as np
import pytest

from dataset.preprocessing import native
from dataset.preprocessing.columns import Samples
from dataset.preprocessing.errors import LibraryError
from dataset.preprocessing.tsv import decode_lines, explain
from tests.support.dataset.preprocessing.fixtures import random_lines, text_of
from tests.support.dataset.preprocessing.plain_python import read_line

_POISON = 0xA5
_COLUMNS = ("label", "dense", "dense_present", "values", "present")
_PUT = ["", "\t", "\n", "\r", "-", "g", "G", "/", ":", "@", "`", "0", "F", " ", "\0", ".", "+"]
_PUT += ["\x10", "\xb0", "\xff", "9" * 8, "0" * 15 + "7", "0" * 16 + "7", "1" * 40, "\r\n"]

_empty = Samples.empty


def _poisoned(n):
    samples = _empty(n)
    for name in _COLUMNS:
        getattr(samples, name).view(np.uint8)[...] = _POISON
    return samples


@pytest.fixture
def check(monkeypatch):
    """Compares decoded bytes with `read_line`; returns DecodedLines."""
    monkeypatch.setattr(Samples, "empty", staticmethod(_poisoned))

    def check(text):
        decoded = decode_lines(text)
        lines = text.split(b"\n")[:-1]
        expected = [read_line(line.decode("latin-1")) for line in lines]
        bad = [i for i, sample in enumerate(expected) if sample is None]
        assert decoded.lines == len(lines)
        assert [(r.line, r.text) for r in decoded.rejects] == [(i, lines[i]) for i in bad]
        for line, sample in zip(lines, expected):
            assert (explain(line) is None) == (sample is not None), line
        samples = [sample for sample in expected if sample is not None]
        dense = np.array([dense for _, dense, _ in samples], object).reshape(-1, 13).T
        values = np.array([values for _, _, values in samples], object).reshape(-1, 26).T
        columns = {
            "label": np.array([label for label, _, _ in samples], np.int32),
            "dense": np.where(dense == None, 0, dense).astype(np.int32),  # noqa: E711
            "dense_present": dense != None,  # noqa: E711
            "values": np.where(values == None, 0, values).astype(np.uint32),  # noqa: E711
            "present": values != None,  # noqa: E711
        }
        for name, column in columns.items():
            found = getattr(decoded.samples, name)
            assert found.dtype == column.dtype
            # As bytes: a bool may be true by another byte than 1.
            assert found.tobytes() == column.tobytes(), name
        return decoded

    return check


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bad", [0.0, 0.1, 1.0])
def test_decoder_equals_plain_python(rng, check, bad, end):
    for size in (0, 1, 2, 63, 64, 65, 300):
        decoded = check(text_of(random_lines(rng, size, bad), end))
        assert bad or not decoded.rejects


def test_decoder_equals_plain_python_on_damaged_text(rng, check):
    for _ in range(200):
        text = text_of(random_lines(rng, 3)).decode()
        for _ in range(rng.integers(1, 5)):
            at = rng.integers(len(text) + 1)
            text = text[:at] + _PUT[rng.integers(len(_PUT))] + text[at + rng.integers(3) :]
        check(text.encode("latin-1"))


@pytest.mark.parametrize("position", [0, 1, 13, 14, 38, 39])
def test_decoder_equals_plain_python_on_every_byte_in_every_place(rng, check, position):
    fields = random_lines(rng, 1)[0].split("\t")
    lines = []
    for shape in ("{}", "{}1", "1{}", "1{}3", "1234{}678", "{}2345678", "1234567{}", "12345678{}"):
        for byte in set(range(256)) - {0x0A}:
            fields[position] = shape.format(chr(byte))
            lines.append("\t".join(fields))
    assert 0 < len(check(text_of(lines)).rejects) < len(lines)


#: Position -> valid and malformed fields.
_LIMITS = {
    0: ([], ["", "00", "01", "-0", "2", " 0"]),
    1: (
        ["2147483647", "-2147483648", "0000000000000007", "-0000002147483648", "-0", "", "0"],
        ["2147483648", "-2147483649", "-", "--1", "0" * 16 + "7", "1-", "9" * 100, "+1",
         "-00000002147483648"],
    ),
    14: (["ffffffff", "FFFFFFFF", "0", "", "0000000a", "aBcDeF"],
         ["123456789", "g", "0x1", "-1", " "]),
    39: (["ffffffff", "", "1", "12345678"], ["123456789", "\r\r", "1\r2", " "]),
}  # fmt: skip


@pytest.mark.parametrize("position", _LIMITS)
def test_decoder_accepts_exactly_the_valid_fields(check, position):
    good = ["0", *["5"] * 13, *["a"] * 26]
    for fields, malformed in zip(_LIMITS[position], (False, True)):
        for field in fields:
            line = "\t".join([*good[:position], field, *good[position + 1 :]])
            assert len(check(text_of([line])).rejects) == malformed, field


def test_decoder_rejects_every_line_of_a_text_without_samples(check):
    for text in (b"", b"\n\n\n", b"\r\n", b"\t" * 39 + b"\n", b"0\n" * 100, b"\0\n"):
        assert len(check(text).samples) == 0


def test_decoder_ignores_text_after_the_last_line_end(rng):
    lines = random_lines(rng, 3)
    for rest in (b"0", lines[0].encode(), b"0\t" * 20, b"x" * 200):
        samples, bad_lines, found = native.decode_lines(text_of(lines) + rest)
        assert (len(samples), bad_lines, found) == (3, [], 3)


def test_decoder_writes_nothing_past_the_last_row(rng):
    text = np.frombuffer(text_of(random_lines(rng, 70)), np.uint8)
    capacity = 100
    samples, bad = _poisoned(capacity), np.full((70, 3), -7, np.int64)
    bad_lines = ctypes.c_int64(-1)
    pointers = [getattr(samples, name).ctypes.data for name in _COLUMNS]
    rows = native.require().dlrm_decode_lines(
        text.ctypes.data, text.size, capacity, *pointers, bad.ctypes.data,
        ctypes.addressof(bad_lines),
    )  # fmt: skip
    assert (rows, bad_lines.value) == (70, 0)
    for name in _COLUMNS:
        assert (getattr(samples, name)[..., 70:].copy().view(np.uint8) == _POISON).all()
    assert (bad == -7).all()


def test_explain_names_the_field(rng):
    good = random_lines(rng, 1)[0].split("\t")

    def reason(position, text):
        return explain("\t".join([*good[:position], text, *good[position + 1 :]]).encode())

    assert reason(0, "2") == "label '2' is not 0 or 1"
    assert reason(1, "1.5") == "I1 '1.5' is not an integer"
    assert reason(13, "2147483648") == "I13 '2147483648' does not fit 32 bits"
    assert reason(14, "xyz") == "C1 'xyz' is not hexadecimal"
    assert reason(39, "123456789") == "C26 '123456789' does not fit 32 bits"
    assert explain("\t".join(good[:39]).encode()) == "39 fields, expected 40"
    assert explain(b"") == "1 field, expected 40"
    for separator, name in ((",", "commas"), (";", "semicolons"), ("|", "bars")):
        assert name in explain(separator.join(good).encode())


@pytest.mark.parametrize("fault", ["missing", "damaged", "other sources"])
def test_require_names_a_library_that_cannot_be_used(tmp_path, monkeypatch, fault):
    for function in (native.load, native.require):
        monkeypatch.setattr(native, function.__name__, function.__wrapped__)
    if fault == "other sources":
        monkeypatch.setattr(native, "_VERSION", -1)
    else:
        monkeypatch.setattr(native, "PATH", tmp_path / "library.so")
    if fault == "damaged":
        native.PATH.write_bytes(b"not a library")
    with pytest.raises(LibraryError, match="make ops") as caught:
        native.require()
    assert caught.value.path == str(native.PATH)
    assert native.load() is None
