"""The requests of `route_bags` against the rows of each bag, found in NumPy."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from ops.bags import EMPTY, Bags
from ops.route_rows import route_bags, route_rows
from tests.support.model.bag_reference import random_ids

# Table 0 has fewer rows than a batch has partial sums, table 1 more; table 2 has one id.
SIZES, RANKS, SAMPLES = np.array([7, 1000, 2, 90]), 3, 40
BAGS = Bags.of((5, 3, 1, 4), ("sum", "mean", "mean", "sum"), (True, True, False, False))


def layout(rng, pieces):
    """Returns (owners, bases, steps) of tables that are on one rank or partitioned by rows."""
    owners = rng.integers(0, RANKS, (len(SIZES), pieces))
    owners[:2] = -1
    # No two tables have a row in common.
    bases = 10_000 * rng.permutation(owners.size * RANKS).reshape(*owners.shape, RANKS)
    return owners, bases, rng.integers(1, 4, owners.shape)


def needed_rows(ids, owners, bases, steps):
    """Returns {(sample, table, piece): [(rank, row) of each id]}."""
    needed = {}
    for sample, row in enumerate(ids):
        for table, first in enumerate(BAGS.first_slots):
            for piece, owner in enumerate(owners[table]):
                found = needed[sample, table, piece] = []
                for i in row[first : first + BAGS.hotness[table]]:
                    if i != EMPTY:
                        rank, local = (i % RANKS, i // RANKS) if owner < 0 else (owner, i)
                        row_number = bases[table, piece, rank] + local * steps[table, piece]
                        found.append((rank, row_number))
    return needed


# Threads share the tables of 1000 samples.
@pytest.mark.parametrize(
    ("pieces", "samples"), [(1, SAMPLES), (2, SAMPLES), (2, 1000)], ids=["whole", "halves", "large"]
)
@pytest.mark.parametrize("unique", [False, True])
def test_route_bags_requests_the_sums_that_make_up_each_bag(pieces, samples, unique, rng):
    owners, bases, steps = layout(rng, pieces)
    ids = random_ids(rng, BAGS, SIZES, (samples,))
    routed = route_bags(tf.constant(ids), BAGS, SIZES, owners, bases, steps, RANKS, unique)
    found = {name: value.numpy() for name, value in routed._asdict().items()}
    sums, requested = check_requests(found, needed_rows(ids, owners, bases, steps), unique)
    if unique:
        assert requested[0] < sums[0] and (requested[1] == sums[1]) == (samples == SAMPLES)


def check_requests(found, needed, unique):
    """Checks arrays of `RoutedBags`; returns the partial sums and the requests of each table."""
    ranks = np.repeat(np.arange(RANKS), found["requested"])
    parts = np.split(found["rows"], np.cumsum(found["sizes"])[:-1])
    vectors = [[(rank, row) for row in part] for rank, part in zip(ranks, parts)]
    np.testing.assert_array_equal(
        np.bincount(ranks, found["sizes"], RANKS), found["rows_requested"]
    )
    rows_of = collections.defaultdict(list)
    for bag, vector in zip(found["bag_segments"], found["inverse_permutation"]):
        rows_of[bag] += vectors[vector]
    for bag, expected in enumerate(needed.values()):
        assert sorted(rows_of[bag]) == sorted(expected)
    assert len(rows_of) <= len(needed) and (np.diff(found["bag_segments"]) >= 0).all()

    pairs = sorted(zip(found["inverse_permutation"], found["bag_segments"]))
    segments = found["vector_segments"] if unique else np.arange(len(vectors))
    assert list(zip(segments, found["permutation"])) == pairs
    assert found["vector_segments"].size == (len(pairs) if unique else 0)

    sums, distinct = np.zeros(len(SIZES), int), [set() for _ in SIZES]
    for (_, table, piece), rows in needed.items():
        sums[table] += len({rank for rank, _ in rows})
        distinct[table] |= {(piece, *row) for row in rows}
    expected = [min(n, len(rows)) if unique else n for n, rows in zip(sums, distinct)]
    assert len(vectors) == sum(expected)
    return sums, expected


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 8, 1000, 2**20 + 1])
def test_route_bags_partitions_rows_of_the_largest_tables(ranks, rng):
    """A table of 2^31 - 1 rows, whose ids are requested at id mod N as row id div N."""
    rows = 2**31 - 1
    multiples = rng.integers(1, rows // ranks + 1, 200) * ranks
    ids = np.concatenate([multiples - 1, multiples, rng.integers(0, rows, 200), [0, rows - 1]])
    ids = np.minimum(ids, rows - 1)[:, None]
    owners, steps = np.full((1, 1), -1), np.ones((1, 1), int)
    bases = np.zeros((1, 1, ranks), int)
    routed = route_bags(
        tf.constant(ids, tf.int32), Bags.one_hot(1), [rows], owners, bases, steps, ranks, False
    )
    order = np.argsort(ids[:, 0] % ranks, kind="stable")
    np.testing.assert_array_equal(routed.rows, ids[order, 0] // ranks)
    np.testing.assert_array_equal(routed.permutation, order)
    np.testing.assert_array_equal(routed.requested, np.bincount(ids[:, 0] % ranks, None, ranks))


@pytest.mark.parametrize("unique", [False, True])
def test_route_bags_divides_each_mean_once(unique, rng):
    """Partial sums of a mean have its number of ids, as bags of distinct rows do with `unique`."""
    bags = Bags(BAGS.hotness, ("mean", "mean", "sum", "mean"), BAGS.variable)
    ids = random_ids(rng, bags, SIZES, (SAMPLES,))
    routed = route_bags(tf.constant(ids), bags, SIZES, *layout(rng, 2), RANKS, unique)
    lengths = np.stack([(part != EMPTY).sum(1) for part in np.split(ids, [5, 8, 9], 1)], 1)
    lengths = np.maximum(np.where([True, True, False, True], lengths, 1), 1)
    distinct = np.array([unique, False, False, False])  # tables whose rows are requested once
    if unique:
        distinct[2] = True
        np.testing.assert_array_equal(routed.counts, np.where(distinct, lengths, 1))
    else:
        assert routed.counts.shape == (0, 0)
    bag = np.asarray(routed.bag_segments) // 2
    expected = np.where(distinct, 1, lengths).reshape(-1)[bag]
    np.testing.assert_array_equal(np.asarray(routed.divisors)[routed.inverse_permutation], expected)
    assert expected.max() > 3


def test_route_bags_of_sums_has_no_divisors(rng):
    sums = Bags.of(BAGS.hotness, "sum", BAGS.variable)
    ids = tf.constant(random_ids(rng, sums, SIZES, (SAMPLES,)))
    routed = route_bags(ids, sums, SIZES, *layout(rng, 1), RANKS, True)
    assert routed.counts.shape == (0, 0) and routed.divisors.shape == 0


@pytest.mark.parametrize("unique", [False, True])
def test_route_bags_with_one_id_each_requests_what_route_rows_does(unique, rng):
    ids = tf.constant(rng.integers(0, SIZES, (SAMPLES, len(SIZES))), tf.int32)
    facts = SIZES, *layout(rng, 2), RANKS, unique
    bags = route_bags(ids, Bags.one_hot(len(SIZES)), *facts)
    rows = route_rows(ids, *facts)
    np.testing.assert_array_equal(bags.rows, rows.rows)
    np.testing.assert_array_equal(bags.requested, rows.requested)
    np.testing.assert_array_equal(bags.inverse_permutation, rows.position)
    np.testing.assert_array_equal(bags.sizes, np.ones(len(rows.rows)))


@pytest.mark.parametrize(("slot", "bad"), [(6, 1000), (6, -2), (8, EMPTY), (11, 90)])
def test_route_bags_rejects_an_id_outside_its_table(slot, bad, rng):
    ids = random_ids(rng, BAGS, SIZES, (SAMPLES,))
    ids[2, slot] = bad
    table = BAGS.feature_of_slots()[slot]
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=rf"table {table}\b.*sample 2\b.*id {bad}\b.*\b{SIZES[table]}\b",
    ):
        route_bags(tf.constant(ids), BAGS, SIZES, *layout(rng, 1), RANKS, unique=True)


def test_route_bags_of_no_sample_or_only_empty_bags(rng):
    bags = Bags.of((2, 3, 1, 1), "mean", (True,) * 4)
    for samples in (0, 5):
        ids = tf.fill([samples, bags.slots], EMPTY)
        routed = route_bags(ids, bags, SIZES, *layout(rng, 1), RANKS, unique=True)
        assert not routed.rows.shape[0] and not routed.permutation.shape[0]
        np.testing.assert_array_equal(routed.requested, [0] * RANKS)
        np.testing.assert_array_equal(routed.counts, np.ones((samples, 4)))
