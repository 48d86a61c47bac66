import argparse
import random

import pytest

from storage.arguments import first_paragraph, number, whole_number, whole_numbers


@pytest.mark.parametrize("seed", range(5))
def test_whole_number_takes_exactly_its_range(seed):
    random.seed(seed)
    least = random.randint(-(10**6), 10**6)
    most = least + random.randint(0, 10**6)
    read = whole_number(least, most)
    for value in (least, most, random.randint(least, most)):
        assert read(str(value)) == value
    for value in (least - 1, most + 1, 10**20, -(10**20), 10**5000):
        text = str(value) if value < 10**4000 else "1" + "0" * 5000
        with pytest.raises(argparse.ArgumentTypeError, match=f"from {least} to {most}, found "):
            read(text)


@pytest.mark.parametrize("text", ["", " 5", "5 ", "+5", "5.0", "1_0", "٣", "0x5", "five", "5,"])
def test_whole_number_takes_decimal_digits_alone(text):
    with pytest.raises(argparse.ArgumentTypeError):
        whole_number()(text)


def test_whole_numbers_are_comma_separated():
    assert whole_numbers(1, 9)("1,9,5") == [1, 9, 5]
    for text in ("1,,5", "1,10", "1,5,", "", "1;5"):
        with pytest.raises(argparse.ArgumentTypeError):
            whole_numbers(1, 9)(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "-0.1", "1.5", "much", ""])
def test_number_is_finite_and_in_its_range(text):
    with pytest.raises(argparse.ArgumentTypeError, match="at least 0 and at most 1, found"):
        number(0, 1)(text)
    assert number(0, 1)("0.25") == 0.25


def test_first_paragraph_ends_at_the_first_empty_line():
    assert first_paragraph("One line\nand another.\n\nDetails.") == "One line\nand another."
    assert first_paragraph("Alone.") == "Alone."
    assert first_paragraph(None) == ""
