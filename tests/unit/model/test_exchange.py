"""The exchanges against NumPy, on threads as ranks: every value says where it came from."""

import numpy as np
import pytest
import tensorflow as tf

from model.embedding.exchange import TableExchange
from model.embedding.placement import Assignment, Placement
from model.embedding.row_exchange import RowExchange
from tests.support.thread_ranks import ThreadRanks

VOCAB = (11, 1, 7, 3, 50)
DIMENSION = 6
LOCAL_BATCH = 5


def placement_of(kind, size):
    table = [Assignment("table", (t % size,)) for t in range(5)]
    column = Assignment("column", (0, size - 1))
    kinds = {
        "table": table,
        "one rank": [Assignment("table", (size - 1,))] * 5,
        "row": [Assignment("row")] * 5,
        "mixed": [Assignment("row") if t in (0, 1, 4) else table[t] for t in range(5)],
        "column": [column, table[1], column, table[3], Assignment("row")],
    }
    return Placement(VOCAB, DIMENSION, size, tuple(kinds[kind]))


def whole_tables():
    generator = np.random.default_rng()
    return [generator.normal(size=(rows, DIMENSION)).astype(np.float32) for rows in VOCAB]


def fill(placement, rank, exchange, tables):
    """Returns a rank's variable, laid out as the exchange says."""
    width = getattr(exchange, "width", DIMENSION)
    flat = []
    for shard in placement.shards_of(rank):
        ids = shard.row_offset + shard.row_stride * np.arange(shard.rows)
        flat.append(tables[shard.table][ids, shard.column_start : shard.column_end].reshape(-1))
    return np.concatenate([*flat, np.zeros(0)]).astype(np.float32).reshape(-1, width)


def lookup(variable, plan, exchange):
    rows = plan.ids.numpy() + exchange.base_rows
    return tf.constant(variable[rows]) if rows.size else tf.zeros([*rows.shape, variable.shape[1]])


CASES = [
    (kind, size, compress)
    for kind in ("table", "one rank", "row", "mixed", "column")
    for size in (1, 2, 3, 4)
    for compress in (False, True)
    if not (kind == "column" and size == 1)
]


@pytest.mark.parametrize(("kind", "size", "compress"), CASES)
def test_vectors_and_gradients_find_their_rows(kind, size, compress):
    generator = np.random.default_rng()
    placement, tables = placement_of(kind, size), whole_tables()
    shape = (size, LOCAL_BATCH, len(VOCAB))
    # Few distinct ids, so that they repeat within and across ranks.
    ids = (generator.integers(0, 4, shape) % np.array(VOCAB)).astype(np.int32)
    gradients = generator.normal(size=(*shape, DIMENSION)).astype(np.float32)
    whole = kind in ("table", "one rank") and not compress

    def body(cluster):
        if whole:
            exchange = TableExchange(placement, cluster, LOCAL_BATCH)
        else:
            exchange = RowExchange(placement, cluster, LOCAL_BATCH, compress=compress)
        variable = fill(placement, cluster.rank, exchange, tables)
        plan = exchange.plan_ids(tf.constant(ids[cluster.rank]))
        vectors = exchange.exchange_vectors(plan, lookup(variable, plan, exchange))
        own = exchange.exchange_gradients(plan, tf.constant(gradients[cluster.rank])).numpy()
        summed = np.zeros(variable.shape)
        rows = (plan.ids.numpy() + exchange.base_rows).reshape(-1)
        np.add.at(summed, rows, own.reshape(len(rows), variable.shape[1]))
        return vectors.numpy(), summed, len(rows)

    results = ThreadRanks(size).run(body)
    expected_sums = [np.zeros(table.shape) for table in tables]
    for rank in range(size):
        expected = np.stack([tables[t][ids[rank, :, t]] for t in range(len(VOCAB))], axis=1)
        np.testing.assert_array_equal(results[rank][0], expected)
        for t in range(len(VOCAB)):
            np.add.at(expected_sums[t], ids[rank, :, t], gradients[rank, :, t])
    for rank in range(size):
        offset, flat = 0, results[rank][1].reshape(-1)
        for shard in placement.shards_of(rank):
            rows = shard.row_offset + shard.row_stride * np.arange(shard.rows)
            part = expected_sums[shard.table][rows, shard.column_start : shard.column_end]
            np.testing.assert_allclose(flat[offset:][: part.size], part.reshape(-1), atol=1e-5)
            offset += part.size
    if compress:
        pieces = 2 if kind == "column" else 1
        distinct = [len({*ids[r, :, t]}) for r in range(size) for t in range(len(VOCAB))]
        assert sum(result[2] for result in results) == pieces * sum(distinct)


@pytest.mark.parametrize("bad", [-1, 3, 2**31 - 1])
def test_an_id_outside_its_table_is_named(bad):
    placement = placement_of("row", 2)

    def body(cluster):
        ids = np.zeros((LOCAL_BATCH, len(VOCAB)), np.int32)
        ids[2, 3] = bad
        exchange = RowExchange(placement, cluster, LOCAL_BATCH)
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            exchange.plan_ids(tf.constant(ids))
        assert f"table 3, sample 2: id {bad} is outside [0, 3)" in str(caught.value)

    ThreadRanks(2).run(body)


def test_the_owner_of_dealt_rows_is_the_id_modulo_the_ranks():
    """The map of SparseOperationKit 2, so that shards interchange."""
    placement = placement_of("row", 3)

    def body(cluster):
        exchange = RowExchange(placement, cluster, LOCAL_BATCH)
        ids = np.tile(np.array([[7, 0, 5, 2, 31]], np.int32), (LOCAL_BATCH, 1))
        plan = exchange.plan_ids(tf.constant(ids))
        return plan.ids.numpy().reshape(-1), exchange.first_rows

    results = ThreadRanks(3).run(body)
    for rank, (rows, first_rows) in enumerate(results):
        wanted = [first_rows[t] + i // 3 for t, i in enumerate((7, 0, 5, 2, 31)) if i % 3 == rank]
        assert sorted(rows) == sorted(wanted * 3 * LOCAL_BATCH)


@pytest.mark.parametrize("size", [1, 2])
def test_sums_beyond_float16_travel_as_its_limits(size):
    """Five samples of one row: 5 x 60,000 is beyond 65,504, 5 x 10 is not; NaN stays to be seen."""
    placement = placement_of("row", size)
    values = np.zeros((LOCAL_BATCH, 5, DIMENSION), np.float16)
    values[:, 0], values[:, 1], values[:, 2] = 60000, -60000, 10
    values[0, 3] = np.nan

    def body(cluster):
        exchange = RowExchange(placement, cluster, LOCAL_BATCH, compress=True)
        plan = exchange.plan_ids(tf.zeros([LOCAL_BATCH, 5], tf.int32))
        return exchange.exchange_gradients(plan, tf.constant(values)).numpy()[:, 0, 0]

    received = np.concatenate(ThreadRanks(size).run(body))
    finite = sorted(received[np.isfinite(received)])
    assert finite == sorted([-65504.0, 0.0, 50.0, 65504.0] * size)
    assert np.isnan(received).sum() == size
