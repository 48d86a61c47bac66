"""The requests of `route_rows` against the owner and row of each id, computed in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from ops.route_rows import route_rows

SIZES, RANKS = np.array([7, 1000, 2]), 3


def layout(rng, pieces):
    """Returns (owners, bases, steps) of tables that are on one rank or partitioned by rows."""
    owners = rng.integers(0, RANKS, (len(SIZES), pieces))
    owners[1] = -1
    return owners, rng.integers(0, 10_000, (*owners.shape, RANKS)), rng.integers(1, 4, owners.shape)


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("unique", [False, True])
def test_route_rows_requests_every_needed_row_from_its_owner(pieces, unique, rng):
    owners, bases, steps = layout(rng, pieces)
    ids = rng.integers(0, SIZES, (50, len(SIZES)))
    routed = route_rows(tf.constant(ids, tf.int32), SIZES, owners, bases, steps, RANKS, unique)
    rows, requested = routed.rows.numpy(), routed.requested.numpy()
    position = routed.position.numpy()

    needed = []
    for sample in ids:
        for table, i in enumerate(sample):
            for piece, owner in enumerate(owners[table]):
                rank, local = (i % RANKS, i // RANKS) if owner < 0 else (owner, i)
                row = bases[table, piece, rank] + local * steps[table, piece]
                needed.append((rank, row))
    requests = list(zip(np.repeat(np.arange(RANKS), requested), rows))
    assert requested.sum() == len(rows)
    assert [requests[k] for k in position] == needed
    if unique:
        assert len(set(requests)) == len(requests) == len(set(needed))
    else:
        np.testing.assert_array_equal(position[routed.order.numpy()], np.arange(len(needed)))


@pytest.mark.parametrize("bad", [-1, 1000])
def test_route_rows_rejects_an_id_outside_its_table(bad, rng):
    ids = np.zeros((4, len(SIZES)), np.int32)
    ids[2, 1] = bad
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=rf"table 1\b.*sample 2\b.*id {bad}\b.*\b1000\b"
    ):
        route_rows(tf.constant(ids), SIZES, *layout(rng, 1), RANKS, unique=False)


def test_route_rows_rejects_an_unknown_owner(rng):
    owners, bases, steps = layout(rng, 1)
    owners[0] = RANKS
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"owner.*\b{RANKS}\b"):
        route_rows(
            tf.zeros((1, len(SIZES)), tf.int32), SIZES, owners, bases, steps, RANKS, unique=False
        )
