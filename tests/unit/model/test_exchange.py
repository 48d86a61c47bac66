"""Exchange plans against results by hand, exchanges against NumPy, with threads as ranks."""

import numpy as np
import pytest
import tensorflow as tf

from model.embedding.exchange import TableExchange
from model.embedding.placement import Assignment, Placement, PlacementError
from model.embedding.row_exchange import RowExchange
from model.embedding.sharded import exchanges_complete_tables
from tests.support.model.placements import placement_of
from tests.support.thread_ranks import ThreadRanks
from training.runtime.process_group import SingleProcessGroup

VOCAB = (11, 1, 7, 3, 50)
DIMENSION = 6
LOCAL_BATCH = 5


def plans(exchange_class, placement, ids, **options):
    """Returns each rank's (exchange, {field of its plan: array})."""

    def body(cluster):
        exchange = exchange_class(placement, cluster, ids.shape[1], **options)
        plan = exchange.plan_ids(tf.constant(ids[cluster.rank]))
        return exchange, {name: value.numpy() for name, value in plan._asdict().items()}

    return ThreadRanks(placement.ranks).run(body)


# Ranks 0 and 1 hold tables (1, 2) and (0,); each has two samples.
TABLE_PLACEMENT = Placement(
    (9, 5, 7), 4, 2,
    (Assignment("table", (1,)), Assignment("table", (0,)), Assignment("table", (0,))),
)  # fmt: skip
TABLE_IDS = np.array([[[8, 1, 2], [7, 3, 4]], [[6, 0, 5], [0, 4, 6]]], np.int32)


def test_table_plan_has_ids_and_splits():
    (exchange_0, plan_0), (exchange_1, plan_1) = plans(TableExchange, TABLE_PLACEMENT, TABLE_IDS)
    np.testing.assert_array_equal(plan_0["ids"], [[1, 2], [3, 4], [0, 5], [4, 6]])
    np.testing.assert_array_equal(plan_1["ids"], [[8], [7], [6], [0]])
    for plan, sent in ((plan_0, 4), (plan_1, 2)):
        np.testing.assert_array_equal(plan["send_splits"], [sent, sent])
        np.testing.assert_array_equal(plan["recv_splits"], [4, 2])
        # They are the same for every batch.
        assert not plan["permutation"].size and not plan["inverse_permutation"].size
    np.testing.assert_array_equal(exchange_0.base_rows, [0, 5])
    np.testing.assert_array_equal(exchange_0.table_rows, [5, 7])
    np.testing.assert_array_equal(exchange_1.table_rows, [9])


def test_table_exchange_arranges_vectors_and_gradients_by_sample_and_table():
    """A vector is its id's (sample of the global batch, table), and so is its gradient."""

    def body(cluster):
        exchange = TableExchange(TABLE_PLACEMENT, cluster, 2)
        plan = exchange.plan_ids(tf.constant(TABLE_IDS[cluster.rank]))
        tables = list(TABLE_PLACEMENT.tables_of(cluster.rank))
        samples, columns = np.meshgrid(np.arange(4), tables, indexing="ij")
        rows = np.stack([samples, columns, samples, columns], axis=2).astype(np.float32)
        vectors = exchange.exchange_vectors(plan, tf.constant(rows))
        return vectors.numpy(), exchange.exchange_gradients(plan, vectors).numpy(), rows

    for rank, (vectors, gradients, rows) in enumerate(ThreadRanks(2).run(body)):
        samples, tables = np.meshgrid([2 * rank, 2 * rank + 1], [0, 1, 2], indexing="ij")
        np.testing.assert_array_equal(vectors[..., 0], samples)
        np.testing.assert_array_equal(vectors[..., 1], tables)
        np.testing.assert_array_equal(gradients, rows)


# Two row-wise tables of 5 and 3 rows: rank 0 has rows 0-2 and 3-4, rank 1 rows 0-1 and 2.
ROW_PLACEMENT = Placement((5, 3), 4, 2, (Assignment("row"), Assignment("row")))
ROW_IDS = np.array([[[4, 1], [4, 0]], [[1, 2], [3, 1]]], np.int32)


@pytest.mark.parametrize("compress", [False, True])
def test_row_plan_has_rows_splits_and_permutations(compress):
    results = plans(RowExchange, ROW_PLACEMENT, ROW_IDS, compress=compress)
    assert [exchange.first_rows for exchange, _ in results] == [[0, 3], [0, 2]]
    assert [exchange.rows for exchange, _ in results] == [5, 3]
    plan_0, plan_1 = (plan for _, plan in results)
    # Rank 0 requests rows 2, 2, 3 of rank 0 and row 2 of rank 1; rank 1 requests row 4 of rank 0
    # and rows 0, 1, 2 of rank 1.
    repeated = 0 if compress else 1
    np.testing.assert_array_equal(plan_0["recv_splits"], [2 + repeated, 1])
    np.testing.assert_array_equal(plan_1["recv_splits"], [1, 3])
    np.testing.assert_array_equal(plan_0["send_splits"], [2 + repeated, 1])
    np.testing.assert_array_equal(plan_1["send_splits"], [1, 3])
    assert sorted(plan_0["ids"][:-1, 0]) == [2] * (1 + repeated) + [3]
    assert plan_0["ids"][-1] == 4
    assert plan_1["ids"][0] == 2 and sorted(plan_1["ids"][1:, 0]) == [0, 1, 2]
    if compress:
        np.testing.assert_array_equal(plan_0["inverse_permutation"][[0, 2]], [0, 0])
    else:
        for plan in (plan_0, plan_1):
            permutation, inverse = plan["permutation"], plan["inverse_permutation"]
            np.testing.assert_array_equal(permutation[inverse], np.arange(4))


def fill(placement, rank, width, tables):
    """Returns a rank's variable: its shards back to back, in rows of `width`."""
    flat = []
    for shard in placement.shards_of(rank):
        ids = shard.row_offset + shard.row_stride * np.arange(shard.rows)
        flat.append(tables[shard.table][ids, shard.column_start : shard.column_end].reshape(-1))
    return np.concatenate([*flat, np.zeros(0)]).astype(np.float32).reshape(-1, width)


CASES = [
    (kind, size, compress)
    for kind, sizes in (("table", (1, 2, 4)), ("last rank", (3,)), ("row", (1, 2, 4)),
                        ("mixed", (3,)), ("column", (2, 3)))
    for size in sizes
    for compress in (False, True)
]  # fmt: skip


@pytest.mark.parametrize(("kind", "size", "compress"), CASES)
def test_exchange_of_vectors_and_gradients_matches_numpy(kind, size, compress, rng):
    placement = placement_of(kind, size, VOCAB, DIMENSION)
    tables = [rng.normal(size=(rows, DIMENSION)).astype(np.float32) for rows in VOCAB]
    shape = (size, LOCAL_BATCH, len(VOCAB))
    # Few distinct ids, so that they repeat within and across ranks.
    ids = (rng.integers(0, 4, shape) % np.array(VOCAB)).astype(np.int32)
    gradients = rng.normal(size=(*shape, DIMENSION)).astype(np.float32)

    def body(cluster):
        if exchanges_complete_tables(placement, compress):
            exchange, width = TableExchange(placement, cluster, LOCAL_BATCH), DIMENSION
        else:
            exchange = RowExchange(placement, cluster, LOCAL_BATCH, compress=compress)
            width = exchange.width
        variable = fill(placement, cluster.rank, width, tables)
        plan = exchange.plan_ids(tf.constant(ids[cluster.rank]))
        rows = plan.ids.numpy() + exchange.base_rows
        found = variable[rows] if rows.size else np.zeros((*rows.shape, width), np.float32)
        vectors = exchange.exchange_vectors(plan, tf.constant(found))
        local = exchange.exchange_gradients(plan, tf.constant(gradients[cluster.rank])).numpy()
        sums = np.zeros(variable.shape)
        np.add.at(sums, rows.reshape(-1), local.reshape(rows.size, width))
        return vectors.numpy(), sums, rows.size

    results = ThreadRanks(size).run(body)
    expected_sums = [np.zeros(table.shape) for table in tables]
    for rank in range(size):
        expected = np.stack([tables[t][ids[rank, :, t]] for t in range(len(VOCAB))], axis=1)
        np.testing.assert_array_equal(results[rank][0], expected)
        for t in range(len(VOCAB)):
            np.add.at(expected_sums[t], ids[rank, :, t], gradients[rank, :, t])
    for rank, (_, sums, _) in enumerate(results):
        np.testing.assert_allclose(
            sums, fill(placement, rank, sums.shape[1], expected_sums), atol=1e-5
        )
    if compress:
        pieces = 2 if kind == "column" else 1
        distinct = [len({*ids[r, :, t]}) for r in range(size) for t in range(len(VOCAB))]
        assert sum(result[2] for result in results) == pieces * sum(distinct)


@pytest.mark.parametrize("bad", [-1, 3, 2**31 - 1])
def test_row_plan_refuses_an_id_outside_its_table(bad):
    placement = placement_of("row", 2, VOCAB, DIMENSION)
    ids = np.zeros((LOCAL_BATCH, len(VOCAB)), np.int32)
    ids[2, 3] = bad

    def body(cluster):
        exchange = RowExchange(placement, cluster, LOCAL_BATCH)
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            exchange.plan_ids(tf.constant(ids))
        for value in ("table 3", "sample 2", str(bad), "3)"):
            assert value in str(caught.value)

    ThreadRanks(2).run(body)


def test_row_exchange_refuses_more_rows_than_32_bits_number():
    placement = Placement((2**30, 2**30), 4, 1, (Assignment("row"), Assignment("row")))
    with pytest.raises(PlacementError) as caught:
        RowExchange(placement, SingleProcessGroup(), LOCAL_BATCH)
    assert (caught.value.found, caught.value.bound) == (2**31, 2**31)


@pytest.mark.parametrize("size", [1, 2])
def test_compressed_gradient_sums_are_clipped_to_float16(size):
    """Five samples of one row: 5 x 60,000 exceeds 65,504, 5 x 10 does not; NaN is kept."""
    placement = placement_of("row", size, VOCAB, DIMENSION)
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
