"""The embedding lookup and SGD against NumPy and sequential loops; argument checks of all updates.

The other optimizers are in test_row_optimizers.py.
"""

import threading

import numpy as np
import pytest
import tensorflow as tf

from ops.embedding import (
    RowIds,
    RowRule,
    create_table,
    embedding_lookup,
    embedding_lookup_tensorflow,
    embedding_update,
)

SIZES = np.array([3, 50, 1, 1000], np.int64)
BASES = np.array([1054, 0, 50, 54], np.int64)  # not in the order of the tables
ROWS = 1100
DTYPES = (tf.float32, tf.bfloat16, tf.float16)


def zipf_ids(rng, batch, sizes=SIZES):
    """Returns ids [B, T] that repeat often: mostly the first rows of each table."""
    return np.stack([(rng.zipf(1.2, batch) - 1) % size for size in sizes], axis=1)


def uniform_ids(rng, batch, sizes=SIZES):
    return np.stack([rng.integers(0, size, batch) for size in sizes], axis=1)


def equal_ids(rng, batch, sizes=SIZES):
    return np.tile(sizes - 1, (batch, 1))


def sequential_sgd(table, ids, gradients, step):
    """Applies one gradient after another, in float32."""
    for b in range(ids.shape[0]):
        for t in range(ids.shape[1]):
            table[BASES[t] + ids[b, t]] -= step * gradients[b, t]
    return table


def update_sgd(table, ids, gradients, rate, scale=1.0):
    embedding_update(table, [], RowIds(ids, BASES, SIZES), gradients, rate, scale)


def update_adagrad(table, accumulator, ids, gradients, rate):
    kind = "adagrad" if accumulator.shape.rank == 2 else "rowwise_adagrad"
    rule = RowRule(kind, (1e-8,))
    embedding_update(table, [accumulator], RowIds(ids, BASES, SIZES), gradients, rate, rule=rule)


def table_of(rng, dimension):
    return rng.standard_normal((ROWS, dimension), dtype=np.float32)


def random_gradients(rng, ids, dimension, dtype=tf.float32):
    return tf.cast(rng.standard_normal((*ids.shape, dimension), dtype=np.float32), dtype)


@pytest.mark.parametrize("dimension", [1, 16, 127, 256])
def test_lookup_returns_rows_bit_for_bit(isa, dimension, rng):
    values = table_of(rng, dimension)
    table = tf.Variable(values)
    for batch in (0, 1, 3, 700):
        ids = uniform_ids(rng, batch)
        for dtype in DTYPES:
            for id_dtype in (tf.int32, tf.int64):
                found = embedding_lookup(table, RowIds(tf.cast(ids, id_dtype), BASES, SIZES), dtype)
                expected = tf.cast(values[BASES + ids], dtype)
                plain = embedding_lookup_tensorflow(table, RowIds(ids, BASES, SIZES), dtype)
                assert found.dtype == dtype and found.shape == (batch, 4, dimension)
                np.testing.assert_array_equal(found.numpy(), expected.numpy())
                np.testing.assert_array_equal(plain.numpy(), expected.numpy())


def test_lookup_with_an_output_larger_than_the_caches(isa, rng):
    values = table_of(rng, 128)
    ids = uniform_ids(rng, 8192)
    for dtype in DTYPES:
        found = embedding_lookup(tf.Variable(values), RowIds(ids, BASES, SIZES), dtype)
        assert tf.reduce_all(found == tf.cast(values[BASES + ids], dtype))


def test_lookup_rounds_like_tensorflow(isa, rng):
    # All exponents of the narrow types, with ties, and values beyond the largest.
    exponents = rng.integers(-26, 17, (64, 33)).astype(np.float32)
    values = (rng.integers(-4096, 4097, (64, 33)) * 2.0 ** (exponents - 11)).astype(np.float32)
    values[0, :6] = [np.inf, -np.inf, np.nan, 65504, 65519.996, 65520]
    ids = np.arange(64)[:, np.newaxis]
    for dtype in DTYPES:
        found = embedding_lookup(tf.Variable(values), RowIds(ids, [0], [64]), dtype)
        np.testing.assert_array_equal(
            tf.cast(found, tf.float32).numpy()[:, 0],
            tf.cast(tf.cast(values, dtype), tf.float32).numpy(),
        )


@pytest.mark.parametrize("make_ids", [equal_ids, zipf_ids, uniform_ids])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_sgd_equals_a_sequential_loop_bit_for_bit(isa, make_ids, dtype, rng):
    step = np.float32(0.3) * np.float32(0.7)
    for dimension, id_dtype in ((1, tf.int32), (33, tf.int64), (127, tf.int32), (128, tf.int64)):
        values, ids = table_of(rng, dimension), make_ids(rng, 600)
        gradients = random_gradients(rng, ids, dimension, dtype)
        table = tf.Variable(values)
        update_sgd(table, tf.cast(ids, id_dtype), gradients, 0.3, 0.7)
        wide = tf.cast(gradients, tf.float32).numpy()
        np.testing.assert_array_equal(table.numpy(), sequential_sgd(values, ids, wide, step))


BAD_IDS = [-1, 1000, 2**31 - 1, -(2**31)]


@pytest.mark.parametrize("bad", [*BAD_IDS, 2**40, -(2**63)])
def test_id_out_of_range_is_an_error_that_writes_nothing(bad, rng):
    values = table_of(rng, 16)
    table, accumulator = tf.Variable(values), tf.Variable(tf.ones([ROWS]))
    ids = uniform_ids(rng, 5000)
    ids[17, 3] = ids[4999, 0] = bad
    ids = tf.cast(ids, tf.int32 if bad in BAD_IDS else tf.int64)
    gradients = random_gradients(rng, ids.numpy(), 16)
    for call in (
        lambda: embedding_lookup(table, RowIds(ids, BASES, SIZES)),
        lambda: update_sgd(table, ids, gradients, 0.1),
        lambda: update_adagrad(table, accumulator, ids, gradients, 0.1),
    ):
        facts = rf"table 3\b.*sample 17\b.*id {bad}\b.*\b1000\b"
        with pytest.raises(tf.errors.InvalidArgumentError, match=facts):
            call()
    np.testing.assert_array_equal(table.numpy(), values)
    np.testing.assert_array_equal(accumulator.numpy(), 1)
    with pytest.raises(tf.errors.InvalidArgumentError):
        embedding_lookup_tensorflow(table, RowIds(ids, BASES, SIZES))


@pytest.mark.parametrize(
    ("bases", "sizes", "facts"),
    [
        ([0, 50], [50, 60], r"\[3\].*\[2\]"),
        ([0, 1, 1000], [50, 60, 101], r"table 2\b.*\b1000\b.*\b101\b.*\b1100\b"),
        ([0, -1, 1000], [50, 60, 1], r"table 1\b.*-1\b"),
        ([0, 1, 5], [50, 60, -1], r"table 2\b.*\b5\b.*-1\b"),
    ],
)
def test_lookup_rejects_tables_outside_the_variable(bases, sizes, facts):
    table = tf.Variable(tf.zeros([ROWS, 4]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=facts):
        embedding_lookup(table, RowIds(tf.zeros([2, 3], tf.int32), bases, sizes))


def test_update_rejects_wrong_shapes_states_and_types():
    table = tf.Variable(tf.zeros([ROWS, 4]))
    ids, gradients = tf.zeros([2, 4], tf.int64), tf.zeros([2, 4, 4])
    where = RowIds(ids, BASES, SIZES)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[2,4,5\]"):
        update_sgd(table, ids, tf.zeros([2, 4, 5]), 0.1)
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"state 0\b.*rowwise_adagrad.*\[rows\].*\[1100,4\].*\[7\]",
    ):
        update_adagrad(table, tf.Variable(tf.zeros([7])), ids, gradients, 0.1)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"state 1\b.*ftrl.*\[1100\]"):
        states = [tf.Variable(tf.zeros([ROWS, 4])), tf.Variable(tf.zeros([ROWS]))]
        embedding_update(table, states, where, gradients, 0.1, rule=RowRule("ftrl", (0, 0, 0)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="adagrad"):
        embedding_update(table, [table], where, gradients, 0.1, rule=RowRule("adagrad", (1e-8,)))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"adagrad.*\b1\b.*\b1\b.*\b0\b.*\b2\b"
    ):
        embedding_update(table, [], where, gradients, 0.1, rule=RowRule("adagrad", (1e-8, 1)))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"lamb.*sgd.*ftrl"):
        embedding_update(table, [], where, gradients, 0.1, rule=RowRule("lamb"))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"learning_rate.*\[1\].*\[\]"):
        update_sgd(table, ids, gradients, [0.1])
    with pytest.raises(TypeError, match=r"^table .*float32"):
        embedding_lookup(tf.zeros([ROWS, 4]), RowIds(ids, BASES, SIZES))
    with pytest.raises(TypeError, match=r"^state .*float32"):
        embedding_update(table, [tf.zeros([ROWS, 4])], where, gradients, 0.1)
    with pytest.raises(TypeError, match="uint32"):
        embedding_lookup(table, RowIds(tf.cast(ids, tf.uint32), BASES, SIZES))


def test_update_does_not_change_a_value_read_before():
    table = tf.Variable(tf.ones([ROWS, 8]))
    before = table.read_value()
    ids = np.zeros((1, 4), np.int64)
    update_sgd(table, ids, tf.ones([1, 4, 8]), 1.0)
    np.testing.assert_array_equal(before.numpy(), 1)
    np.testing.assert_array_equal(table.numpy()[BASES], 0)


def test_update_refuses_to_copy_a_large_variable_that_is_still_read(rng):
    """Neither variable's memory is touched: the values stay undefined."""
    rows = (1 << 30) // (128 * 4) + int(rng.integers(1, 1000))
    gibibytes = rows * 128 * 4 / 2**30
    table, accumulator = create_table(rows, 128), create_table(rows, 128)
    where = RowIds(np.zeros((1, 1), np.int64), [0], [rows])

    def update():
        rule = RowRule("adagrad", (1e-8,))
        embedding_update(table, [accumulator], where, tf.ones([1, 1, 128]), 0.1, rule=rule)

    update()
    for variable, role in ((table, "table"), (accumulator, "state 0")):
        reader = variable.read_value()
        facts = rf"no other reader of the {role} \({gibibytes:.3f}\d* GiB\).*up to 1 GiB"
        with pytest.raises(tf.errors.FailedPreconditionError, match=facts):
            update()
        del reader
    update()


def test_function_keeps_the_order_of_lookups_and_updates():
    """Without explicit control dependencies."""
    table = tf.Variable(tf.ones([ROWS, 8]))
    ids = tf.zeros([1, 4], tf.int64)

    @tf.function
    def step(rate):
        before = embedding_lookup(table, RowIds(ids, BASES, SIZES))
        update_sgd(table, ids, tf.ones([1, 4, 8]), rate)
        after = embedding_lookup(table, RowIds(ids, BASES, SIZES))
        update_sgd(table, ids, tf.ones([1, 4, 8]), rate)
        return before, after

    for first in (1.0, -3.0):
        before, after = step(2.0)
        np.testing.assert_array_equal(before.numpy(), first)
        np.testing.assert_array_equal(after.numpy(), first - 2)


def test_update_after_a_checkpoint_is_restored(tmp_path, rng):
    values = table_of(rng, 8)
    table = tf.Variable(values)
    checkpoint = tf.train.Checkpoint(table=table)
    path = checkpoint.save(str(tmp_path / "model"))
    ids = uniform_ids(rng, 10)
    gradients = random_gradients(rng, ids, 8)
    update_sgd(table, ids, gradients, 0.5)
    updated = table.numpy()
    assert not np.array_equal(updated, values)
    checkpoint.restore(path).assert_consumed()
    np.testing.assert_array_equal(
        embedding_lookup(table, RowIds(ids, BASES, SIZES)).numpy(), values[BASES + ids]
    )
    update_sgd(table, ids, gradients, 0.5)
    np.testing.assert_array_equal(table.numpy(), updated)


def test_empty_batch_and_no_tables():
    table = tf.Variable(tf.ones([ROWS, 8]))
    empty = tf.zeros([0, 4], tf.int32)
    update_sgd(table, empty, tf.zeros([0, 4, 8]), 1.0)
    none = tf.zeros([5, 0], tf.int32)
    nothing = np.zeros(0, np.int64)
    assert embedding_lookup(table, RowIds(none, nothing, nothing)).shape == (5, 0, 8)
    embedding_update(table, [], RowIds(none, nothing, nothing), tf.zeros([5, 0, 8]), 1.0)
    np.testing.assert_array_equal(table.numpy(), 1)


def test_concurrent_lookups_see_complete_updates():
    """All elements of a row are equal before and after each update."""
    table = create_table(ROWS, 64)
    table.assign(tf.zeros([ROWS, 64]))
    ids = equal_ids(None, 16)
    gradients = tf.ones([16, 4, 64])
    torn = []

    def look():
        for _ in range(50):
            vectors = embedding_lookup(table, RowIds(ids, BASES, SIZES)).numpy()
            if not (vectors == vectors[:1, :, :1]).all():
                torn.append(vectors)

    def update():
        for _ in range(50):
            update_sgd(table, ids, gradients, 1.0)

    threads = [threading.Thread(target=work) for work in (look, update, look, update)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not torn
    np.testing.assert_array_equal(table.numpy()[BASES + SIZES - 1], -1600)
