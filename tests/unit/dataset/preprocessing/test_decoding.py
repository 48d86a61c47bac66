import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.preprocessing.fields import PADDING, ByteBlock, decode_hex, decode_integers
from dataset.preprocessing.tsv import decode_lines, decode_lines_with_numpy, explain
from tests.support.dataset.preprocessing.fixtures import random_lines
from tests.support.dataset.preprocessing.plain_python import read_line

_HEX = st.text("0123456789abcdefABCDEF", max_size=9)
_NUMBERS = st.integers(-(2**33), 2**33).map(str) | st.text("0123456789-", max_size=18)
_ANY = st.text(st.characters(max_codepoint=255, exclude_characters="\t\n"), max_size=9)


def _spans(fields):
    block = ByteBlock("\t".join(fields).encode("latin-1"))
    lengths = np.array([len(field) for field in fields], np.int64)
    starts = PADDING + np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
    return block, starts, starts + lengths


@settings(max_examples=300, deadline=None)
@given(st.lists(_HEX | _ANY, min_size=1, max_size=20))
def test_hex_fields_are_what_int_says(fields):
    values, present, valid = decode_hex(*_spans(fields))
    for i, field in enumerate(fields):
        good = re.fullmatch("[0-9a-fA-F]{0,8}", field) is not None
        assert bool(valid[i]) == good, field
        assert bool(present[i]) == (field != "")
        if good:
            assert values[i] == (int(field, 16) if field else 0), field


@settings(max_examples=300, deadline=None)
@given(st.lists(_NUMBERS | _ANY, min_size=1, max_size=20))
def test_integer_fields_are_what_int_says(fields):
    values, present, valid = decode_integers(*_spans(fields))
    for i, field in enumerate(fields):
        good = re.fullmatch("(-?[0-9]{1,16})?", field) is not None
        good = good and -(2**31) <= int(field or 0) < 2**31
        assert bool(valid[i]) == good, field
        assert bool(present[i]) == (field != "")
        if good:
            assert values[i] == int(field or 0), field


def test_the_limits_of_32_bits():
    fields = ["2147483647", "-2147483648", "2147483648", "-2147483649", "0000000000000007", "-0"]
    values, _, valid = decode_integers(*_spans(fields))
    assert valid.tolist() == [True, True, False, False, True, True]
    assert values.tolist() == [2**31 - 1, -(2**31), 0, 0, 7, 0]
    values, _, valid = decode_hex(*_spans(["ffffffff", "100000000", "0", "FfFf"]))
    assert valid.tolist() == [True, False, True, True]
    assert values.tolist() == [2**32 - 1, values[1], 0, 65535]


def _same_as_plain_python(lines):
    for decode in (decode_lines, decode_lines_with_numpy):
        _decodes_as_plain_python(decode, lines)


def _decodes_as_plain_python(decode, lines):
    decoded = decode("".join(line + "\n" for line in lines).encode("latin-1"))
    expected = [read_line(line) for line in lines]
    assert decoded.lines == len(lines)
    bad = [i for i, sample in enumerate(expected) if sample is None]
    assert [reject.line for reject in decoded.rejects] == bad
    for reject in decoded.rejects:
        assert reject.text == lines[reject.line].encode("latin-1")
        assert reject.reason
    samples = [sample for sample in expected if sample is not None]
    assert decoded.samples.label.tolist() == [label for label, _, _ in samples]
    for i in range(13):
        column = [dense[i] for _, dense, _ in samples]
        assert decoded.samples.dense_present[i].tolist() == [count is not None for count in column]
        assert decoded.samples.dense[i].tolist() == [count or 0 for count in column]
    for i in range(26):
        column = [values[i] for _, _, values in samples]
        assert decoded.samples.present[i].tolist() == [value is not None for value in column]
        assert decoded.samples.values[i].tolist() == [value or 0 for value in column]


def test_lines_are_decoded_as_plain_python_reads_them():
    for seed in range(5):
        _same_as_plain_python(random_lines(seed, 300, bad=0.0))
        _same_as_plain_python(random_lines(seed, 300, bad=0.2))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_lines_are_rejected_as_plain_python_does(data):
    lines = random_lines(data.draw(st.integers(0, 10**6)), 4)
    for _ in range(data.draw(st.integers(1, 3))):
        i = data.draw(st.integers(0, len(lines) - 1))
        at = data.draw(st.integers(0, len(lines[i])))
        put = data.draw(
            st.sampled_from(["", "\t", "-", "g", "0", "F", " ", "\0", "\xb0", ".", "+"])
        )
        lines[i] = lines[i][:at] + put + lines[i][at + data.draw(st.integers(0, 2)) :]
    _same_as_plain_python(lines)


@settings(max_examples=100, deadline=None)
@given(st.lists(_ANY | _NUMBERS | _HEX, min_size=38, max_size=41))
def test_a_reason_is_given_exactly_for_what_is_rejected(fields):
    for label in ("0", "1", ""):
        line = "\t".join([label, *fields])
        for decode in (decode_lines, decode_lines_with_numpy):
            decoded = decode((line + "\n").encode("latin-1"))
            assert (explain(line.encode("latin-1")) is None) == (not decoded.rejects)


def test_carriage_returns_end_lines_too():
    lines = random_lines(3, 20)
    for decode in (decode_lines, decode_lines_with_numpy):
        plain = decode("".join(line + "\n" for line in lines).encode())
        windows = decode("".join(line + "\r\n" for line in lines).encode())
        assert not windows.rejects
        np.testing.assert_array_equal(plain.samples.values, windows.samples.values)
        np.testing.assert_array_equal(plain.samples.present, windows.samples.present)


def test_reasons_name_the_field():
    good = random_lines(0, 1)[0].split("\t")

    def reason(position, text):
        return explain("\t".join([*good[:position], text, *good[position + 1 :]]).encode())

    assert reason(0, "2") == "label '2' is not 0 or 1"
    assert reason(1, "1.5") == "I1 '1.5' is not an integer"
    assert reason(13, "2147483648") == "I13 '2147483648' does not fit 32 bits"
    assert reason(14, "xyz") == "C1 'xyz' is not hexadecimal"
    assert reason(39, "123456789") == "C26 '123456789' does not fit 32 bits"
    assert explain("\t".join(good[:39]).encode()) == "39 fields, expected 40"
    assert explain(b"") == "1 field, expected 40"
    assert explain("\t".join(good).encode()) is None
