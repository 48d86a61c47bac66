"""Fused and replicated tables: offsets, initial values, lookup, update, reading and writing."""

import numpy as np
import pytest
import tensorflow as tf

from model.embedding.optimizers import OPTIMIZERS
from model.embedding.placement import Assignment, Placement, plan
from model.embedding.replicated import ReplicatedTables
from model.embedding.tables import FusedTables
from ops.embedding import RowIds, create_table, embedding_initialize
from tests.support.row_optimizers import OPTIONS, ReferenceRows
from tests.support.thread_ranks import ThreadRanks

# Rank 1 holds table 1, the odd ids of table 2 and a copy of table 3.
VOCAB, DIMENSION = (9, 4, 7, 3), 6
PLACEMENT = Placement(
    VOCAB, DIMENSION, 2,
    (Assignment("table", (0,)), Assignment("table", (1,)), Assignment("row"),
     Assignment("replicated")),
)  # fmt: skip
SHARDS = PLACEMENT.shards_of(1)
FIRST_ROWS, ROWS = [0, 4, 7], 10
BASE_ROWS, TABLE_ROWS = np.array(FIRST_ROWS), np.array([4, 3, 3])


def fused_tables(seed, **options):
    return FusedTables(PLACEMENT, SHARDS, FIRST_ROWS, ROWS, DIMENSION, seed=seed, **options)


def initial_rows(table, seed):
    """Returns the initial rows of a complete table."""
    variable = create_table(VOCAB[table], DIMENSION)
    embedding_initialize(variable, 0, VOCAB[table], table, seed, VOCAB[table] ** -0.5)
    return variable.numpy()


def test_initial_values_are_at_the_base_offsets(seed):
    fused = fused_tables(seed)
    assert [shard.table for shard in fused.shards] == [1, 2, 3]
    expected = [initial_rows(1, seed), initial_rows(2, seed)[1::2], initial_rows(3, seed)]
    np.testing.assert_array_equal(fused.table.numpy(), np.concatenate(expected))
    assert [fused.row_range(index) for index in range(3)] == [(0, 4), (4, 7), (7, 10)]


def test_column_half_has_the_columns_of_the_complete_table(seed):
    placement = Placement(VOCAB[:1], DIMENSION, 2, (Assignment("column", (1, 0)),))
    (shard,) = placement.shards_of(0)  # the second half
    fused = FusedTables(placement, [shard], [0], 9, DIMENSION // 2, seed=seed)
    np.testing.assert_array_equal(fused.table.numpy(), initial_rows(0, seed)[:, 3:])


def test_complete_table_in_a_variable_of_halves_takes_two_rows_per_id(seed):
    placement = Placement(VOCAB[:1], DIMENSION, 1, (Assignment("table", (0,)),))
    fused = FusedTables(placement, placement.shards_of(0), [0], 18, DIMENSION // 2, seed=seed)
    assert fused.row_range(0) == (0, 18)
    np.testing.assert_array_equal(fused.table.numpy().reshape(9, 6), initial_rows(0, seed))
    np.testing.assert_array_equal(fused.read(0, 2, 3), initial_rows(0, seed)[2:5])


@pytest.mark.parametrize("native", [True, False], ids=["native", "tensorflow"])
def test_lookup_adds_each_tables_base_offset(native, seed, rng):
    fused = fused_tables(seed, native=native)
    ids = rng.integers(0, TABLE_ROWS, (20, 3)).astype(np.int32)
    vectors = fused.lookup(RowIds(ids, BASE_ROWS, TABLE_ROWS), tf.float32)
    np.testing.assert_array_equal(vectors, fused.table.numpy()[ids + BASE_ROWS])
    half = fused.lookup(RowIds(ids, BASE_ROWS, TABLE_ROWS), tf.bfloat16)
    np.testing.assert_array_equal(half, tf.cast(vectors, tf.bfloat16))


def configured(name):
    """Returns (optimizer, its options): other than the defaults, and an initial accumulator."""
    options = dict(OPTIONS.get(name, {}))
    if "initial_accumulator" in OPTIMIZERS[name].hyperparameters:
        options["initial_accumulator"] = 0.25
    return OPTIMIZERS[name].with_options(options), options


def check(fused, before, reference, touched):
    """Compares rows and states with the reference's; other rows must not have changed."""
    for found, expected in zip(fused.states.values(), [reference.rows, *reference.states]):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    untouched = np.setdiff1d(np.arange(len(before)), touched)
    assert untouched.size
    np.testing.assert_array_equal(fused.table.numpy()[untouched], before[untouched])


@pytest.mark.parametrize("native", [True, False], ids=["native", "tensorflow"])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_update_changes_only_the_rows_of_the_ids(native, name, seed, rng):
    optimizer, options = configured(name)
    fused = fused_tables(seed, optimizer=optimizer, native=native)
    before = fused.table.numpy()
    reference = ReferenceRows(name, before, options=options)
    ids = rng.integers(0, [4, 2, 1], (20, 3)).astype(np.int32)  # repeated; rows 6, 8, 9 unused
    gradients = rng.normal(size=(20, 3, DIMENSION)).astype(np.float32)
    fused.update(RowIds(ids, BASE_ROWS, TABLE_ROWS), tf.constant(gradients), 0.5, 0.25)
    reference.scatter(ids + BASE_ROWS, gradients, 0.5, 0.25)
    check(fused, before, reference, ids + BASE_ROWS)


@pytest.mark.parametrize("call", ["lookup", "update"])
@pytest.mark.parametrize(("table", "bad"), [(0, 4), (1, 3), (2, -1), (1, 2**31 - 1)])
def test_id_out_of_range_is_an_error_with_table_and_bound(call, table, bad, seed):
    fused = fused_tables(seed)
    before = fused.table.numpy()
    ids = np.zeros((5, 3), np.int32)
    ids[2, table] = bad
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        if call == "lookup":
            fused.lookup(RowIds(ids, BASE_ROWS, TABLE_ROWS), tf.float32)
        else:
            gradients = tf.ones([5, 3, DIMENSION])
            fused.update(RowIds(ids, BASE_ROWS, TABLE_ROWS), gradients, 0.5, 1.0)
    for value in (f"table {table}", "sample 2", str(bad), f"{TABLE_ROWS[table]})"):
        assert value in str(caught.value)
    np.testing.assert_array_equal(fused.table.numpy(), before)


def test_read_and_write_take_rows_of_a_shard(seed, rng):
    fused = fused_tables(seed, optimizer="rowwise_adagrad")
    before = fused.table.numpy()
    values = rng.normal(size=(2, DIMENSION)).astype(np.float32)
    fused.write(1, 1, values)
    fused.write(1, 1, np.array([3.0, 4.0], np.float32), "accumulator")
    np.testing.assert_array_equal(fused.read(1, 0, 3), [before[4], *values])
    np.testing.assert_array_equal(fused.read(1, 0, 3, "accumulator"), [0, 3, 4])
    np.testing.assert_array_equal(fused.read_rows(5, 7), values)
    np.testing.assert_array_equal(fused.table.numpy()[:5], before[:5])
    np.testing.assert_array_equal(fused.table.numpy()[7:], before[7:])


def test_read_and_write_refuse_rows_outside_the_shard(seed):
    fused = fused_tables(seed)
    for begin, count in ((-1, 1), (2, 2), (4, 0)):
        with pytest.raises(ValueError, match=f"shard 1.*{begin}"):
            fused.read(1, begin, count)
    with pytest.raises(ValueError, match="shard 1"):
        fused.write(1, 2, np.zeros((2, DIMENSION), np.float32))
    with pytest.raises(ValueError, match=r"\(1, 6\).*\(1, 5\)"):
        fused.write(1, 0, np.zeros((1, 5), np.float32))


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("native", [True, False], ids=["native", "tensorflow"])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_replicated_tables_update_every_copy_with_the_sum_over_ranks(name, native, size, seed, rng):
    placement = plan((5, 3), DIMENSION, size, replicate_below_rows=9)
    optimizer, options = configured(name)
    ids = rng.integers(0, [4, 2], (size, 8, 2)).astype(np.int32)  # rows 4 and 7 unused
    gradients = rng.normal(size=(*ids.shape, DIMENSION)).astype(np.float32)

    def body(cluster):
        replicated = ReplicatedTables(
            placement, cluster, seed=seed, optimizer=optimizer, native=native
        )
        before = replicated.fused.table.numpy()
        local = tf.constant(ids[cluster.rank])
        vectors = replicated.lookup(local, tf.float32).numpy()
        touched = replicated.touched_rows(local)
        sums = replicated.exchange_gradients(local, touched, tf.constant(gradients[cluster.rank]))
        replicated.update(touched, sums, 0.5, 0.25)
        return before, vectors, touched.numpy(), replicated.fused

    results = ThreadRanks(size).run(body)
    before = results[0][0]
    rows = ids + np.array([0, 5])
    reference = ReferenceRows(name, before, options=options)
    reference.scatter(rows, gradients, 0.5, 0.25)
    for rank, (copy, vectors, touched, fused) in enumerate(results):
        np.testing.assert_array_equal(copy, before)
        np.testing.assert_array_equal(vectors, before[rows[rank]])
        np.testing.assert_array_equal(touched[:, 0], np.unique(rows))
        np.testing.assert_array_equal(fused.table, results[0][3].table)
        check(fused, before, reference, rows)
