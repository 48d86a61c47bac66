"""Vocabulary sizes: checks, and the description of a difference."""

import pytest

from dataset.errors import DatasetError
from dataset.vocabularies import check_sizes, difference


def line(ours, theirs):
    return difference(ours, theirs, "the checkpoint", "the data")


def test_check_sizes_error_has_table_and_bound():
    with pytest.raises(DatasetError) as caught:
        check_sizes([1, 2**31], "a list")
    assert (caught.value.table, caught.value.found, caught.value.bound) == (1, 2**31, 2**31 - 1)
    with pytest.raises(DatasetError) as caught:
        check_sizes([1, 2], "a list", 3)
    assert (caught.value.expected, caught.value.found) == (3, 2)


FIRST = "table 0: the checkpoint has 3 rows, the data "


@pytest.mark.parametrize(("theirs", "expected"), [
    ((3, 5, 1245), None),
    ([3, 5, 1300], "table 2: the checkpoint has 1,245 rows, the data 1,300"),
    ([4, 6, 1300], f"{FIRST}4 (2 more tables differ)"),
    ([4, 6, 1245], f"{FIRST}4 (1 more table differs)"),
    ([3, 1245], "the checkpoint has 3 tables, the data 2; table 1: the checkpoint has 5 rows, the "
     "data 1,245"),
    ([5, 3, 1245], f"{FIRST}5 (1 more table differs); the sizes are the same in another order"),
])  # fmt: skip
def test_difference_names_the_first_table(theirs, expected):
    assert line([3, 5, 1245], theirs) == expected
