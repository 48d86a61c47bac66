"""Two lists of vocabulary sizes: the line names the table, not the lists."""

import numpy as np
import pytest

from dataset.vocabularies import difference


def line(ours, theirs):
    return difference(ours, theirs, "the checkpoint", "the data")


def test_equal_lists_have_no_difference():
    sizes = np.random.default_rng(1).integers(1, 9, 26).tolist()
    assert line(sizes, tuple(sizes)) is None


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ([3, 5, 1300], "table 2: the checkpoint has 1,245 rows, the data 1,300"),
        (
            [4, 6, 1300],
            "table 0: the checkpoint has 3 rows, the data 4 (2 more tables differ)",
        ),
        ([4, 6, 1245], "table 0: the checkpoint has 3 rows, the data 4 (1 more table differs)"),
        ([3, 5], "the checkpoint has 3 tables, the data 2"),
        (
            [3, 1245],
            "the checkpoint has 3 tables, the data 2; table 1: the checkpoint has 5 rows, the "
            "data 1,245",
        ),
        (
            [5, 3, 1245],
            "table 0: the checkpoint has 3 rows, the data 5 (1 more table differs); the sizes are "
            "the same in another order",
        ),
    ],
)
def test_the_first_table_that_differs_is_named(theirs, expected):
    assert line([3, 5, 1245], theirs) == expected
