"""Argument types: the values they accept, and the bounds in their errors."""

import argparse

import pytest

from storage.arguments import first_paragraph, number, whole_number, whole_numbers


def test_whole_number_accepts_exactly_its_range(rng):
    least = int(rng.integers(-(10**6), 10**6))
    most = least + int(rng.integers(0, 10**6))
    read = whole_number(least, most)
    for value in (least, most, (least + most) // 2):
        assert read(str(value)) == value
    for text in (str(least - 1), str(most + 1), "1" + "0" * 20, "-1" + "0" * 20, "1" + "0" * 5000):
        with pytest.raises(argparse.ArgumentTypeError, match=f"{least} .* {most}"):
            read(text)


@pytest.mark.parametrize("text", ["", " 5", "5 ", "+5", "5.0", "1_0", "٣", "0x5", "five", "5,"])
def test_whole_number_accepts_only_decimal_digits(text):
    with pytest.raises(argparse.ArgumentTypeError):
        whole_number()(text)


def test_whole_numbers_accepts_comma_separated_integers():
    assert whole_numbers(1, 9)("1,9,5") == [1, 9, 5]
    for text in ("1,,5", "1,10", "1,5,", "", "1;5"):
        with pytest.raises(argparse.ArgumentTypeError):
            whole_numbers(1, 9)(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "-0.1", "1.5", "much", ""])
def test_number_accepts_finite_values_in_its_range(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"0 .* 1, "):
        number(0, 1)(text)
    assert number(0, 1)("0.25") == 0.25


def test_first_paragraph_ends_at_an_empty_line():
    assert first_paragraph("One line\nand another.\n\nDetails.") == "One line\nand another."
    assert first_paragraph("Alone.") == "Alone."
    assert first_paragraph(None) == ""
