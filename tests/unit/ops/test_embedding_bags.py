"""Lookup and updates of bags of ids against loops over the bags, in NumPy."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from model.embedding.optimizers import OPTIMIZERS
from ops.bags import EMPTY, Bags
from ops.embedding import (
    RowIds,
    embedding_lookup,
    embedding_lookup_tensorflow,
    embedding_update,
    embedding_update_tensorflow,
)
from tests.support.row_optimizers import OPTIONS, ReferenceRows, exact_gradients
from tests.unit.ops.test_embedding import BASES, DTYPES, ROWS, SIZES, table_of
from tests.unit.ops.test_row_optimizers import rule_of, start

FORMS = ("fixed", "variable", "offsets")
DIMENSIONS = (1, 5, 16, 17, 64, 128)
PRECISION = {tf.float32: 1e-5, tf.bfloat16: 2.0**-7, tf.float16: 2.0**-9}


@dataclasses.dataclass
class Batch:
    """Ids, and the same as lists: `rows[b * T + t]` are rows of the variable."""

    where: RowIds
    rows: list
    means: list  # of each table
    shape: tuple  # B, T

    @property
    def factors(self):
        """Of each bag, float32."""
        one = np.float32(1)
        return [
            one / np.float32(len(rows)) if self.means[k % self.shape[1]] and len(rows) else one
            for k, rows in enumerate(self.rows)
        ]

    @property
    def pairs(self):
        """(row, bag) of each id, in order."""
        return [(row, k) for k, rows in enumerate(self.rows) for row in rows]


def batch_of(rng, form, samples, id_dtype=tf.int32):
    """Returns a batch with ids that repeat, within a bag too, and bags without ids."""
    if form == "offsets":
        lengths = rng.integers(0, 12, samples) * (rng.random(samples) < 0.8)
        ids = (rng.zipf(1.2, lengths.sum()) - 1) % SIZES[3]
        offsets = np.append(0, np.cumsum(lengths))
        where = RowIds(
            tf.constant(ids, id_dtype), BASES[3:], SIZES[3:], offsets=offsets.astype(np.int32)
        )
        return Batch(where, np.split(BASES[3] + ids, offsets[1:-1]), [False], (samples, 1))
    bags = Bags((3, 1, 2, 11), ("sum", "mean", "mean", "sum"), (form == "variable",) * 3 + (False,))
    tables = bags.feature_of_slots()
    ids = (rng.zipf(1.2, (samples, bags.slots)) - 1) % SIZES[tables]
    if form == "variable":  # anywhere, not only after the ids
        ids[(rng.random(ids.shape) < 0.4) & np.array(bags.variable)[tables]] = EMPTY
    rows = [
        [BASES[t] + i for i in sample[first : first + bags.hotness[t]] if i != EMPTY]
        for sample in ids
        for t, first in enumerate(bags.first_slots)
    ]
    where = RowIds(tf.constant(ids, id_dtype), BASES, SIZES, bags)
    return Batch(where, rows, [False, True, True, False], (samples, 4))


def gradients_of(rng, batch, dimension, dtype=tf.float32):
    return tf.cast(exact_gradients(rng, (*batch.shape, dimension)), dtype)


def scattered(batch, gradients):
    """Returns (row, gradient) of each id, in float64."""
    flat = tf.cast(gradients, tf.float64).numpy().reshape(-1, gradients.shape[-1])
    rows, bags = np.array(batch.pairs).T
    return rows, flat[bags] * np.array(batch.factors, "f8")[bags, None]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("id_dtype", [tf.int32, tf.int64], ids=lambda d: d.name)
def test_lookup_pools_bags(isa, form, id_dtype, rng):
    for dimension in DIMENSIONS:
        values = table_of(rng, dimension)
        table = tf.Variable(values)
        batch = batch_of(rng, form, 70, id_dtype)
        expected = [
            factor * np.sum(values[np.array(rows, int)], axis=0, dtype="f8")
            for rows, factor in zip(batch.rows, batch.factors)
        ]
        expected = np.reshape(expected, (*batch.shape, dimension))
        assert min(map(len, batch.rows)) == 0 or form == "fixed"
        for dtype in DTYPES:
            for lookup in (embedding_lookup, embedding_lookup_tensorflow):
                found = lookup(table, batch.where, dtype)
                assert found.dtype == dtype
                np.testing.assert_allclose(
                    tf.cast(found, tf.float64).numpy(), expected,
                    rtol=PRECISION[dtype], atol=PRECISION[dtype],
                )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_lookup_adds_in_the_order_of_the_ids_bit_for_bit(isa, form, rng):
    """An output beyond the caches too, which is written past them."""
    for dimension, samples in ((5, 30), (64, 30), (128, 8500 if form == "offsets" else 2100)):
        values = table_of(rng, dimension)
        batch = batch_of(rng, form, samples)
        found = embedding_lookup(tf.Variable(values), batch.where).numpy()
        found = found.reshape(-1, dimension)
        picked = rng.choice(len(found), 100)
        for k in picked:
            expected = np.zeros(dimension, np.float32)
            for row in batch.rows[k]:
                expected += values[row]
            np.testing.assert_array_equal(found[k], batch.factors[k] * expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_sgd_equals_a_sequential_loop_bit_for_bit(isa, form, dtype, rng):
    step = np.float32(0.3) * np.float32(0.7)
    for dimension in DIMENSIONS:
        values, batch = table_of(rng, dimension), batch_of(rng, form, 40)
        noise = rng.standard_normal((*batch.shape, dimension), dtype=np.float32)
        gradients = tf.cast(noise, dtype)
        table = tf.Variable(values)
        embedding_update(table, [], batch.where, gradients, 0.3, 0.7)
        wide = tf.cast(gradients, tf.float32).numpy().reshape(-1, dimension)
        for row, bag in batch.pairs:
            values[row] -= step * (batch.factors[bag] * wide[bag])
        np.testing.assert_array_equal(table.numpy(), values)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("form", FORMS)
def test_native_update_equals_float64(isa, form, name, rng):
    for dimension, dtype in zip(DIMENSIONS, (*DTYPES, *DTYPES)):
        rows, states = start(rng, name, dimension)
        reference = ReferenceRows(name, rows, states, OPTIONS.get(name))
        table, variables = tf.Variable(rows), [tf.Variable(state) for state in states]
        for rate in (0.3, 0.1):
            batch = batch_of(rng, form, 60, tf.int64 if rate == 0.1 else tf.int32)
            gradients = gradients_of(rng, batch, dimension, dtype)
            embedding_update(table, variables, batch.where, gradients, rate, 0.5, rule_of(name))
            reference.scatter(*scattered(batch, gradients), rate, 0.5)
        np.testing.assert_allclose(table.numpy(), reference.rows, rtol=1e-4, atol=2e-4)
        for variable, expected in zip(variables, reference.states):
            np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("form", FORMS)
def test_tensorflow_update_equals_float64(form, name, rng):
    rows, states = start(rng, name, 24)
    reference = ReferenceRows(name, rows, states, OPTIONS.get(name))
    table, variables = tf.Variable(rows), [tf.Variable(state) for state in states]
    batch = batch_of(rng, form, 80)
    gradients = gradients_of(rng, batch, 24)
    rule, formula = rule_of(name), OPTIMIZERS[name].formula
    embedding_update_tensorflow(
        table, variables, batch.where, gradients, 0.3, 0.5, formula, rule.hyperparameters
    )
    reference.scatter(*scattered(batch, gradients), 0.3, 0.5)
    np.testing.assert_allclose(table.numpy(), reference.rows, rtol=1e-4, atol=1e-4)
    for variable, expected in zip(variables, reference.states):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bags_of_one_id_equal_the_ops_for_one_id_bit_for_bit(isa, name, rng):
    """Declared as variable, they are bags for the ops; averaging one row changes nothing."""
    bags = Bags((1,) * 4, ("sum", "mean") * 2, (True,) * 4)
    for samples in (3, 3000):
        ids = (rng.zipf(1.2, (samples, 4)) - 1) % SIZES
        gradients = rng.standard_normal((samples, 4, 33), dtype=np.float32)
        rows, states = start(rng, name, 33)
        rows[BASES, :5] = -0.0
        results = []
        for where in (RowIds(ids, BASES, SIZES), RowIds(ids, BASES, SIZES, bags)):
            table, variables = tf.Variable(rows), [tf.Variable(state) for state in states]
            found = embedding_lookup(table, where, tf.bfloat16)
            embedding_update(table, variables, where, gradients, 0.3, 0.5, rule_of(name))
            results.append([tf.bitcast(found, tf.uint16), table, *variables])
        assert results[0][0].shape == (samples, 4, 33)
        for one_hot, pooled in zip(*results):
            np.testing.assert_array_equal(one_hot.numpy(), pooled.numpy())
            if one_hot.dtype == tf.float32:
                np.testing.assert_array_equal(
                    np.signbit(one_hot.numpy()), np.signbit(pooled.numpy())
                )


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("form", FORMS)
def test_scale_of_0_writes_nothing(isa, form, name, rng):
    rows, states = start(rng, name, 17)
    table, variables = tf.Variable(rows), [tf.Variable(state) for state in states]
    batch, rule = batch_of(rng, form, 40), rule_of(name)
    gradients = rng.standard_normal((*batch.shape, 17)).astype("f4")
    gradients[rng.random(gradients.shape) < 0.2] = rng.choice([np.nan, np.inf, -np.inf])
    embedding_update(table, variables, batch.where, gradients, 0.3, 0.0, rule)
    embedding_update_tensorflow(
        table, variables, batch.where, gradients, 0.3, 0.0, OPTIMIZERS[name].formula,
        rule.hyperparameters,
    )  # fmt: skip
    for variable, expected in zip([table, *variables], [rows, *states]):
        np.testing.assert_array_equal(variable.numpy().view("u4"), expected.view("u4"))


@pytest.mark.parametrize("name", ["sgd", "rowwise_adagrad"])
@pytest.mark.parametrize(("form", "bad"), [("fixed", -1), ("variable", -2), ("offsets", 1000)])
def test_id_out_of_range_is_an_error_that_writes_nothing(form, bad, name, rng):
    """The first one is named; empty slots are only allowed in tables that declare them."""
    rows, states = start(rng, name, 8)
    table, variables = tf.Variable(rows), [tf.Variable(state) for state in states]
    batch = batch_of(rng, form, 3000)
    lengths = [len(bag) for bag in batch.rows]
    if form == "offsets":
        sample = int(rng.choice(np.flatnonzero(lengths)))
        first, last = int(sum(lengths[:sample])), (len(batch.where.ids) - 1,)
        t, place = 0, (first + int(rng.integers(lengths[sample])),)
    else:
        sample, t = int(rng.integers(3000)), int(rng.choice([0, 2, 3]))
        first = batch.where.bags.first_slots[t]
        place = (sample, first + int(rng.integers(batch.where.bags.hotness[t])))
        last = (2999, batch.where.bags.slots - 1)
    ids = batch.where.ids.numpy()
    ids[last] = SIZES[3]
    ids[place] = bad
    where = batch.where._replace(ids=ids)
    bound = SIZES[3] if form == "offsets" else SIZES[t]
    facts = rf"id out of range: table {t}, sample {sample}: id {bad} is not in \[0, {bound}\)"
    gradients = tf.ones([*batch.shape, 8])
    for call in (
        lambda: embedding_lookup(table, where),
        lambda: embedding_update(table, variables, where, gradients, 0.1, 1.0, rule_of(name)),
        lambda: embedding_update(table, variables, where, gradients, 0.1, 0.0, rule_of(name)),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=facts):
            call()
    with pytest.raises(tf.errors.InvalidArgumentError):
        embedding_lookup_tensorflow(table, where)
    for variable, expected in zip([table, *variables], [rows, *states]):
        np.testing.assert_array_equal(variable.numpy(), expected)


@pytest.mark.parametrize(
    ("offsets", "facts"),
    [
        ([1, 2, 5], "5; found 1 at the start, 5 at the end"),
        ([0, 2, 4], "5; found 0 at the start, 4 at the end"),
        ([0, 2, 6], "5; found 0 at the start, 6 at the end"),
        ([0, 3, 2, 5], "5; found 0 at the start, 5 at the end, 3 before 2 at bag 1"),
        ([0, -1, 5], "5; found 0 at the start, 5 at the end, 0 before -1 at bag 0"),
    ],
)
def test_wrong_offsets_are_an_error(offsets, facts):
    table = tf.Variable(tf.ones([9, 4]))
    where = RowIds(np.zeros(5, np.int32), [0], [9], offsets=offsets)
    gradients = tf.ones([len(offsets) - 1, 1, 4])
    for call in (
        lambda: embedding_lookup(table, where),
        lambda: embedding_update(table, [], where, gradients, 0.1),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="offsets.*" + facts):
            call()
    np.testing.assert_array_equal(table.numpy(), 1)


def test_wrong_shapes_are_errors():
    table = tf.Variable(tf.zeros([9, 4]))
    bags = Bags.of((2, 3))
    where = RowIds(np.zeros((6, 5), np.int32), [0, 4], [4, 5], bags)
    assert embedding_lookup(table, where).shape == (6, 2, 4)
    for wrong, facts in (
        (where._replace(ids=np.zeros((6, 4), np.int32)), r"\[B, 5\].*\[6,4\]"),
        (where._replace(ids=np.zeros(30, np.int32)), r"\[B, 5\].*\[30\]"),
        (where._replace(base_rows=[0], table_rows=[4]), r"must be \[2\].*\[1\]"),
        (where._replace(table_rows=[4, 6]), r"table 1 with base row 4 and 6 rows.*9 rows"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=facts):
            embedding_lookup(table, wrong)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[6, 2, 4\].*\[6,5\].*\[6,5,4\]"):
        embedding_update(table, [], where, tf.zeros([6, 5, 4]), 0.1)
    with pytest.raises(ValueError, match="bags or offsets, found both"):
        embedding_lookup(table, where._replace(offsets=[0, 30]))


@pytest.mark.parametrize("form", FORMS)
def test_batch_without_samples(form, rng):
    table, batch = tf.Variable(table_of(rng, 8)), batch_of(rng, form, 0)
    before = table.numpy()
    assert embedding_lookup(table, batch.where).shape == (*batch.shape, 8)
    embedding_update(table, [], batch.where, tf.zeros([*batch.shape, 8]), 0.1)
    np.testing.assert_array_equal(table.numpy(), before)


def test_bags_without_ids_are_zeros(isa):
    table = tf.Variable(np.full((9, 5), np.nan, np.float32))
    bags = Bags((2, 3), ("mean", "sum"), (True, True))
    where = RowIds(np.full((40, 5), EMPTY, np.int32), [0, 4], [4, 5], bags)
    empty = RowIds(np.zeros(0, np.int64), [0], [9], offsets=np.zeros(41, np.int32))
    for ids, tables in ((where, 2), (empty, 1)):
        found = embedding_lookup(table, ids)
        np.testing.assert_array_equal(found.numpy(), np.zeros((40, tables, 5)))
        embedding_update(table, [], ids, tf.ones([40, tables, 5]), 0.1)
    assert np.isnan(table.numpy()).all()


def test_one_long_bag_is_averaged_and_updated_like_many(isa, rng):
    """All ids of one sample are in one bag of a table: sharing the work must not lose any."""
    values, count = table_of(rng, 16), 5000
    ids = rng.integers(0, ROWS, (1, count))
    where = RowIds(ids, [0], [ROWS], Bags.of((count,), "mean"))
    table = tf.Variable(values)
    np.testing.assert_allclose(
        embedding_lookup(table, where).numpy()[0, 0], np.mean(values[ids[0]], 0, "f8"), atol=1e-4
    )
    gradient = rng.standard_normal(16, dtype=np.float32)
    embedding_update(table, [], where, gradient.reshape(1, 1, 16), 10.0)
    times = np.bincount(ids[0], minlength=ROWS)[:, np.newaxis]
    np.testing.assert_allclose(table.numpy(), values - 10 * gradient * times / count, atol=1e-5)


def test_shapes_are_known_in_a_graph():
    table = tf.Variable(tf.zeros([9, 4]))

    @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.int32)])
    def pooled(ids):
        return embedding_lookup(table, RowIds(ids, [0, 4], [4, 5], Bags.of((2, 3))))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([8], tf.int32)])
    def ragged(ids, offsets):
        return embedding_lookup(table, RowIds(ids, [0], [9], offsets=offsets))

    assert pooled.get_concrete_function().output_shapes == [None, 2, 4]
    assert ragged.get_concrete_function().output_shapes == [7, 1, 4]


@pytest.mark.parametrize("offsets", [[0, 2, 2, 5], np.array([0, 2, 2, 5])], ids=["list", "int64"])
@pytest.mark.parametrize("native", [True, False])
def test_offsets_may_be_a_list_or_an_array(native, offsets, rng):
    values = table_of(rng, 4)
    table = tf.Variable(values)
    where = RowIds([3, 1, 0, 0, 2], [0], [len(values)], offsets=offsets)
    lookup = embedding_lookup if native else embedding_lookup_tensorflow
    update = embedding_update if native else embedding_update_tensorflow
    found = lookup(table, where)[:, 0]
    expected = [values[3] + values[1], np.zeros(4), 2 * values[0] + values[2]]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    update(table, [], where, tf.ones([3, 1, 4]), 0.5)
    changes = np.zeros(values.shape)
    changes[:4] = [[-1.0], [-0.5], [-0.5], [-0.5]]
    np.testing.assert_allclose(table.numpy() - values, changes, atol=1e-5)


def test_tensorflows_ops_on_bags_are_deterministic_and_use_no_bincount(rng):
    """`tf.math.bincount` has no deterministic kernel for GPUs."""
    table = tf.Variable(table_of(rng, 4))
    bags = Bags((3, 1, 2, 11), ("sum", "mean", "mean", "sum"), (True,) * 4)

    @tf.function(autograph=False)
    def step(ids):
        where = RowIds(ids, BASES, SIZES, bags)
        vectors = embedding_lookup_tensorflow(table, where)
        embedding_update_tensorflow(table, [], where, vectors, 0.5)
        return vectors

    graph = step.get_concrete_function(tf.TensorSpec([None, bags.slots], tf.int32)).graph
    types = {op.type for op in graph.get_operations()}
    assert not types & {"Bincount", "DenseBincount", "RaggedBincount"}
    assert "SparseSegmentSumWithNumSegments" in types and "SparseSegmentSum" not in types
