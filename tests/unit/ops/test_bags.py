"""`ops.bags`: the slots of features in a batch, and their description in files."""

import json

import pytest

from ops.bags import MAX_HOTNESS, MLPERF_HOTNESS, Bags, Feature


def test_slots_are_adjacent_and_in_feature_order():
    bags = Bags.of((3, 1, 2), ("sum", "mean", "sum"), (True, False, False))
    assert (bags.features, bags.slots, bags.first_slots) == (3, 6, (0, 3, 4))
    assert bags.feature_of_slots() == [0, 0, 0, 1, 2, 2]
    assert bags.slots_of([2, 0]) == [4, 5, 0, 1, 2]
    assert bags.select([2, 0]) == Bags.of((2, 3), "sum", (False, True))
    assert bags.each()[1] == Feature(1, "mean", False)
    assert str(bags.each()[0]) == "at most 3 (sum)"


def test_one_id_per_feature_is_one_hot_unless_it_may_be_missing():
    assert Bags.one_hot(3).is_one_hot
    assert Bags.of((1, 1), "mean").is_one_hot
    assert not Bags.of((1, 2)).is_one_hot
    assert not Bags.of((1, 1), variable=(True, False)).is_one_hot


def test_description_is_json_and_restores_the_bags():
    bags = Bags.of((3, 1), ("sum", "mean"), (True, False))
    written = json.loads(json.dumps(bags.description()))
    assert Bags.from_description(written, 2) == bags
    assert Bags.one_hot(4).description() is None
    assert Bags.from_description(None, 4) == Bags.one_hot(4)
    with pytest.raises(ValueError, match="expected 3 features, found 2"):
        Bags.from_description(written, 3)


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        (((1, 0), ("sum", "sum"), (False, False)), "feature 1: hotness: expected 1 to 65536, .* 0"),
        (((65537,), ("sum",), (False,)), "feature 0: hotness: expected 1 to 65536, found 65537"),
        (((2, 65537), ("sum",) * 2, (True,) * 2), "feature 1: hotness: expected 1 to 65536"),
        (((1,), ("max",), (False,)), "feature 0: pooling: expected sum or mean, found 'max'"),
        (((1, 2), ("sum",), (False, False)), "lists of one length"),
    ],
)
def test_impossible_bags_are_refused(lists, words):
    with pytest.raises(ValueError, match=words):
        Bags(*lists)


def test_largest_hotness_is_allowed():
    assert Bags.of((MAX_HOTNESS,) * 2, variable=(True, False)).slots == 2 * MAX_HOTNESS


def test_published_hotness_adds_up():
    assert (len(MLPERF_HOTNESS), sum(MLPERF_HOTNESS), max(MLPERF_HOTNESS)) == (26, 214, 100)
