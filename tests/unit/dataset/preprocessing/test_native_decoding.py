"""The native decoder against the NumPy one, and against plain Python, on what a file may hold."""

import ctypes
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.preprocessing import native
from dataset.preprocessing.columns import Samples
from dataset.preprocessing.tsv import decode_lines_with_numpy, explain
from tests.support.dataset.preprocessing.fixtures import random_lines
from tests.support.dataset.preprocessing.plain_python import read_line

_POISON = 0xA5
_COLUMNS = ("label", "dense", "dense_present", "values", "present")
_PUT = ["", "\t", "\n", "\r", "-", "g", "G", "/", ":", "@", "`", "0", "F", " ", "\0", ".", "+"]
_PUT += ["\x10", "\xb0", "\xff", "9" * 8, "0" * 15 + "7", "0" * 16 + "7", "1" * 40, "\r\n"]

pytestmark = pytest.mark.usefixtures("kernels")

_empty = Samples.empty


def _poisoned(n):
    samples = _empty(n)
    for name in _COLUMNS:
        getattr(samples, name).view(np.uint8)[...] = _POISON
    return samples


def _check(text):
    """Compares both decoders on bytes `text`, and what the native one says with `explain`."""
    expected = decode_lines_with_numpy(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Samples, "empty", staticmethod(_poisoned))
        samples, bad_lines, lines = native.decode_lines(native.load(), text)
    assert lines == expected.lines == text.count(b"\n")
    assert len(samples) == lines - len(bad_lines) == len(expected.samples)
    for name in _COLUMNS:
        found, wanted = getattr(samples, name), getattr(expected.samples, name)
        assert found.dtype == wanted.dtype
        # As bytes: a bool may be true by another byte than 1.
        assert found.tobytes() == wanted.tobytes(), name
    assert [line for line, _, _ in bad_lines] == [reject.line for reject in expected.rejects]
    whole = text.split(b"\n")[:-1]
    bad = {line: text[start:end] for line, start, end in bad_lines}
    for number, line in enumerate(whole):
        assert bad.get(number) == (line if explain(line) else None)
    return samples, bad_lines, lines


def _text(lines, end="\n"):
    return "".join(line + end for line in lines).encode("latin-1")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bad", [0.0, 0.02, 0.5, 1.0])
def test_both_decoders_agree(bad, end):
    for size in (1, 2, 63, 64, 65, 300):
        lines = random_lines(random.randrange(10**9), size, bad)
        samples, bad_lines, _ = _check(_text(lines, end))
        good = [sample for sample in map(read_line, lines) if sample is not None]
        assert len(good) == len(samples) == size - len(bad_lines)
        for row, (label, dense, values) in enumerate(good):
            assert samples.label[row] == label
            assert samples.dense[:, row].tolist() == [count or 0 for count in dense]
            assert samples.dense_present[:, row].tolist() == [c is not None for c in dense]
            assert samples.values[:, row].tolist() == [value or 0 for value in values]
            assert samples.present[:, row].tolist() == [v is not None for v in values]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_both_decoders_agree_on_damaged_lines(data):
    text = "\n".join(random_lines(data.draw(st.integers(0, 10**6)), 3)) + "\n"
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        put = data.draw(st.sampled_from(_PUT))
        text = text[:at] + put + text[at + data.draw(st.integers(0, 2)) :]
    _check(text.encode("latin-1"))


_DENSE = st.text("0123456789-", max_size=18) | st.integers(-(2**33), 2**33).map(str)
_HEX = st.text("0123456789abcdefABCDEF", max_size=9)
_ANY = st.text(st.characters(max_codepoint=255, exclude_characters="\t\n"), max_size=10)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 39), _DENSE | _HEX | _ANY, st.sampled_from(["\n", "\r\n", "\r\r\n"]))
def test_both_decoders_agree_on_any_field(position, field, end):
    fields = random_lines(1, 1)[0].split("\t")
    fields[position] = field
    _check(_text(["\t".join(fields)], end) + _text(random_lines(2, 1)))


@pytest.mark.parametrize("position", [0, 1, 13, 14, 38, 39])
def test_both_decoders_agree_on_every_byte_in_every_place(position):
    fields = random_lines(1, 1)[0].split("\t")
    lines = []
    for shape in ("{}", "{}1", "1{}", "1{}3", "1234{}678", "{}2345678", "1234567{}", "12345678{}"):
        for byte in set(range(256)) - {0x0A}:
            fields[position] = shape.format(chr(byte))
            lines.append("\t".join(fields))
    _, bad_lines, _ = _check(_text(lines))
    assert 0 < len(bad_lines) < len(lines)


def test_the_limits_of_fields():
    fields = "0\t" + "\t".join(["5"] * 13) + "\t" + "\t".join(["a"] * 26)
    good = {
        1: ["2147483647", "-2147483648", "0000000000000007", "-0000002147483648", "-0", "", "0"],
        14: ["ffffffff", "FFFFFFFF", "0", "", "0000000a", "aBcDeF"],
        39: ["ffffffff", "", "1", "12345678"],
    }
    bad = {
        0: ["", "00", "01", "-0", "2", " 0"],
        1: [
            "2147483648",
            "-2147483649",
            "-",
            "--1",
            "00000000000000007",
            "1-",
            "9" * 100,
            "+1",
            "-00000002147483648",
        ],
        14: ["123456789", "g", "0x1", "-1", " "],
        39: ["123456789", "\r\r", "1\r2", " "],
    }
    for cases, malformed in ((good, False), (bad, True)):
        for position, texts in cases.items():
            for text in texts:
                line = fields.split("\t")
                line[position] = text
                _, bad_lines, _ = _check(_text(["\t".join(line)]))
                assert len(bad_lines) == malformed, text


def test_texts_without_samples():
    for text in (b"", b"\n", b"\n\n\n", b"\r\n", b"\t" * 39 + b"\n", b"0\n" * 100, b"\0\n"):
        samples, bad_lines, lines = _check(text)
        assert len(samples) == 0 and len(bad_lines) == lines


def test_what_follows_the_last_line_end_is_left_out():
    lines = random_lines(5, 3)
    text = _text(lines)
    for rest in (b"0", lines[0].encode(), b"0\t" * 20, b"x" * 200):
        samples, bad_lines, found = native.decode_lines(native.load(), text + rest)
        assert (len(samples), bad_lines, found) == (3, [], 3)


def test_nothing_is_written_past_the_last_row(kernels):
    lines = random_lines(6, 70)
    text = np.frombuffer(_text(lines), np.uint8)
    room = 100
    samples, bad = _poisoned(room), np.full((70, 3), -7, np.int64)
    bad_lines = ctypes.c_int64(-1)
    pointers = [getattr(samples, name).ctypes.data for name in _COLUMNS]
    rows = kernels.dlrm_decode_lines(
        text.ctypes.data, text.size, room, *pointers, bad.ctypes.data, ctypes.addressof(bad_lines)
    )
    assert (rows, bad_lines.value) == (70, 0)
    for name in _COLUMNS:
        assert (getattr(samples, name)[..., 70:].copy().view(np.uint8) == _POISON).all()
    assert (bad == -7).all()


def test_a_library_of_other_sources_is_not_used(monkeypatch, tmp_path):
    native.load.cache_clear()
    try:
        monkeypatch.setattr(native, "_VERSION", -1)
        assert native.load() is None
        native.load.cache_clear()
        monkeypatch.undo()
        (tmp_path / "broken.so").write_bytes(b"not a library")
        for path in (tmp_path / "broken.so", tmp_path / "absent.so"):
            native.load.cache_clear()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(native, "PATH", path)
                assert native.load() is None
    finally:
        native.load.cache_clear()
    assert native.load() is not None
