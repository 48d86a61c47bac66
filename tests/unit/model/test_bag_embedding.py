"""Multi-hot features: vectors and updated rows of all placements against NumPy float64."""

import numpy as np
import pytest
import tensorflow as tf

from model.embedding.interface import EmbeddingOptions, lookup, update
from model.embedding.optimizers import OPTIMIZERS
from model.embedding.row_exchange import RowExchange
from model.embedding.sharded import ShardedEmbedding
from ops.bags import EMPTY, Bags
from tests.support.model.bag_reference import (
    mixed_bags,
    pool,
    random_ids,
    row_gradients,
    slots_of_features,
)
from tests.support.model.placements import placement_of
from tests.support.row_optimizers import OPTIONS, ReferenceRows
from tests.support.thread_ranks import ThreadRanks
from training.runtime.process_group import SingleProcessGroup

VOCAB, DIMENSION, LOCAL_BATCH = (11, 1, 7, 3, 50), 6, 7
RATE, SCALE = 0.5, 0.25
# Relative rounding error of a number.
EPSILON = {"float32": 2.0**-24, "bfloat16": 2.0**-9, "float16": 2.0**-11}


def complete_tables(ranks, vocab=VOCAB):
    """Returns each table of all ranks' embeddings; every copy of a row must have the same value."""
    tables = [np.full((rows, DIMENSION), np.nan) for rows in vocab]
    for embedding in ranks:
        for holder in embedding.fused_tables:
            for index, shard in enumerate(holder.shards):
                rows = shard.row_offset + shard.row_stride * np.arange(shard.rows)
                part = tables[shard.table][rows, shard.column_start : shard.column_end]
                values = holder.read(index, 0, shard.rows)
                assert np.isnan(part).all() or shard.kind == "replicated"
                np.testing.assert_array_equal(values, np.where(np.isnan(part), values, part))
                tables[shard.table][rows, shard.column_start : shard.column_end] = values
    assert not any(np.isnan(table).any() for table in tables)
    return tables


def configured(name):
    """Returns (optimizer, its options): its steps depend smoothly on gradients close to 0."""
    options = dict(OPTIONS.get(name, {}))
    if "initial_accumulator" in OPTIMIZERS[name].hyperparameters:
        options["initial_accumulator"] = 0.25
    return OPTIMIZERS[name].with_options(options), options


def check_step(kind, size, bags, rng, *, optimizer="sgd", own_tables=False, **options):
    """Runs lookup and update on `size` ranks; compares vectors and all rows with the reference."""
    placement = placement_of(kind, size, VOCAB, DIMENSION)
    ids = random_ids(rng, bags, VOCAB, (size, LOCAL_BATCH))
    gradients = rng.normal(size=(size, LOCAL_BATCH, len(VOCAB), DIMENSION)).astype(np.float32)
    rule, rule_options = configured(optimizer)
    options = EmbeddingOptions(
        int(rng.integers(2**31)), optimizer=rule, bags=bags, model_parallel_input=own_tables,
        **options,
    )  # fmt: skip

    def body(cluster):
        embedding = ShardedEmbedding(placement, cluster, LOCAL_BATCH, options)
        initial = complete_tables(cluster.gather(embedding))
        cluster.gather(None)  # no rank updates its rows before all have read them
        categorical = ids[cluster.rank]
        if own_tables:
            slots = bags.slots_of(placement.tables_of(cluster.rank))
            categorical = ids.reshape(-1, bags.slots)[:, slots]
        plan = embedding.plan_ids(tf.constant(categorical))
        vectors = lookup(embedding, plan)
        assert vectors.dtype == options.exchange_dtype
        update(embedding, plan, tf.constant(gradients[cluster.rank]), RATE, scale=SCALE)
        return initial, tf.cast(vectors, tf.float32).numpy(), embedding

    results = ThreadRanks(size).run(body)
    initial, epsilon = results[0][0], EPSILON[options.exchange_dtype.name]
    magnitudes = pool(bags, ids, [np.abs(table) for table in initial])
    # A vector is rounded by each addition of up to 6 rows, twice by the division of a mean, when it
    # is sent and when it is pooled.
    error = np.abs(np.stack([r[1] for r in results]) - pool(bags, ids, initial))
    assert (error <= 10 * epsilon * magnitudes + 1e-7).all()
    assert magnitudes.max() > 0.1

    final = complete_tables([embedding for *_, embedding in results])
    sums = row_gradients(bags, ids, gradients, VOCAB)
    bounds = row_gradients(bags, ids, np.abs(gradients), VOCAB)
    for table, (summed, used) in enumerate(sums):
        reference = ReferenceRows(optimizer, initial[table], options=rule_options)
        reference.apply(used, SCALE / size * summed, RATE)
        limit = 4 * epsilon * RATE * SCALE / size * bounds[table][0]
        error = np.abs(final[table] - reference.rows)  # up to 126 roundings of a row
        assert (error <= limit + 1e-5).all() if optimizer == "sgd" else error.max() < 1e-5
        np.testing.assert_array_equal(final[table][~used], initial[table][~used])
        assert np.array_equal(final[table], initial[table]) != used.any()


CASES = [
    (kind, size, compress)
    for kind, sizes in (("table", (1, 2, 4)), ("last rank", (3,)), ("row", (1, 2, 4)),
                        ("mixed", (3,)), ("column", (2, 3)), ("replicated", (1, 3)))
    for size in sizes
    for compress in (False, True)
]  # fmt: skip


@pytest.mark.parametrize(("kind", "size", "compress"), CASES)
def test_bags_are_pooled_and_their_rows_updated(kind, size, compress, rng):
    check_step(kind, size, mixed_bags(rng, len(VOCAB)), rng, compress=compress)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("kind", "compress"),
    [("table", False), ("row", False), ("row", True), ("column", True), ("replicated", False)],
)
def test_bags_in_16_bit_types_are_added_in_float32(kind, compress, dtype, rng):
    bags = mixed_bags(rng, len(VOCAB))
    check_step(kind, 2, bags, rng, compress=compress, exchange_dtype=dtype)


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "sgd"])
@pytest.mark.parametrize(
    ("kind", "compress"), [("table", False), ("row", False), ("mixed", True), ("replicated", True)]
)
def test_bags_of_each_optimizer(kind, compress, optimizer, rng):
    bags = mixed_bags(rng, len(VOCAB))
    check_step(kind, 2, bags, rng, compress=compress, optimizer=optimizer)


@pytest.mark.parametrize("size", [1, 3])
def test_bags_of_a_ranks_own_tables_need_no_exchange_of_ids(size, rng):
    check_step("table", size, mixed_bags(rng, len(VOCAB)), rng, own_tables=True)


@pytest.mark.parametrize(("kind", "compress"), [("table", False), ("row", True), ("replicated", 0)])
def test_bags_with_tensorflows_ops(kind, compress, rng):
    bags = mixed_bags(rng, len(VOCAB))
    check_step(kind, 2, bags, rng, compress=compress, native_kernels=False)


@pytest.mark.parametrize("kind", ["table", "row", "replicated"])
def test_touched_rows_are_those_of_all_ids(kind, rng):
    """The rows of exchanged tables for checkpoints; those of replicated ones are in the plan."""
    size, bags = 2, Bags.of((3, 2, 4, 6, 2), "mean", (True,) * 5)
    placement = placement_of(kind, size, VOCAB, DIMENSION)
    ids = random_ids(rng, bags, VOCAB, (size, LOCAL_BATCH))
    ids[..., bags.slots_of([1])] = EMPTY  # this row precedes those of a table with empty slots

    def body(cluster):
        embedding = ShardedEmbedding(
            placement, cluster, LOCAL_BATCH, EmbeddingOptions(1, bags=bags)
        )
        plan = embedding.plan_ids(tf.constant(ids[cluster.rank]))
        return embedding, embedding.touched_rows(plan), plan.touched_rows.numpy()

    for embedding, exchanged, replicated in ThreadRanks(size).run(body):
        for holder, touched in zip(embedding.fused_tables, (exchanged, replicated)):
            expected = []
            for index, shard in enumerate(holder.shards):
                used = np.unique(ids[..., bags.slots_of([shard.table])])
                local, offset = divmod(used[used != EMPTY], shard.row_stride)
                if shard.kind != "replicated" or holder is not embedding.fused_tables[0]:
                    first = holder.row_range(index)[0]
                    expected += list(first + local[offset == shard.row_offset])
            assert set(touched.reshape(-1)) == set(expected)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(("kind", "size"), [("row", 1), ("row", 4), ("column", 3)])
def test_partial_sums_or_rows_are_exchanged_whichever_are_fewer(kind, size, compress, rng):
    placement = placement_of(kind, size, VOCAB, DIMENSION)
    bags = Bags.of((6, 3, 2, 5, 6), "sum", (True, False, False, True, False))
    ids = random_ids(rng, bags, VOCAB, (size, 20))

    def body(cluster):
        options = EmbeddingOptions(1, bags=bags, compress=compress)
        plan = ShardedEmbedding(placement, cluster, 20, options).plan_ids(
            tf.constant(ids[cluster.rank])
        )
        received = plan.recv_splits.numpy()
        assert len(plan.offsets) == plan.send_splits.numpy().sum() + 1
        return received.sum()

    pieces = 2 if kind == "column" else 1
    for rank, received in enumerate(ThreadRanks(size).run(body)):
        expected = rows = 0
        for table, slots in enumerate(slots_of_features(bags)):
            row_wise = placement.assignments[table].kind == "row"
            lists = [[i for i in sample if i != EMPTY] for sample in ids[rank][:, slots]]
            sums = sum(len({i % size if row_wise else 0 for i in one}) for one in lists)
            distinct = len({i for one in lists for i in one})
            expected += pieces * (min(sums, distinct) if compress else sums)
            rows += pieces * sum(map(len, lists))
        assert received == expected < rows


@pytest.mark.parametrize("size", [1, 2])
def test_summed_gradients_of_rows_in_bags_are_clipped_to_float16(size):
    """Five samples have row 0 twice: 10 x 60,000 exceeds 65,504, 10 x 10 does not."""
    placement = placement_of("row", size, VOCAB, DIMENSION)
    bags = Bags.of((2,) * 5)
    values = np.zeros((LOCAL_BATCH, 5, DIMENSION), np.float16)
    values[:5, 0], values[:5, 1], values[:5, 2] = 60000, -60000, 10

    def body(cluster):
        exchange = RowExchange(placement, cluster, LOCAL_BATCH, compress=True, bags=bags)
        plan = exchange.plan_ids(tf.zeros([LOCAL_BATCH, 10], tf.int32))
        return exchange.exchange_gradients(plan, tf.constant(values)).numpy()[:, 0, 0]

    received = np.concatenate(ThreadRanks(size).run(body))
    assert sorted(received) == sorted([-65504.0, 0.0, 0.0, 100.0, 65504.0] * size)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("compress", [True, False])
def test_a_batch_of_empty_bags_changes_nothing(compress, native):
    """TensorFlow's sums of no segment fail on GPUs, see `ops.embedding.segment_sums`."""
    placement = placement_of("row", 2, VOCAB, DIMENSION)
    bags = Bags.of((2,) * 5, "mean", (True,) * 5)
    options = EmbeddingOptions(1, bags=bags, compress=compress, native_kernels=native)

    def body(cluster):
        embedding = ShardedEmbedding(placement, cluster, LOCAL_BATCH, options)
        before = [holder.table.numpy() for holder in embedding.fused_tables]
        plan = embedding.plan_ids(tf.fill([LOCAL_BATCH, 10], EMPTY))
        vectors = lookup(embedding, plan)
        update(embedding, plan, tf.ones_like(vectors), RATE)
        for holder, expected in zip(embedding.fused_tables, before):
            np.testing.assert_array_equal(holder.table, expected)
        return vectors.numpy()

    for vectors in ThreadRanks(2).run(body):
        np.testing.assert_array_equal(vectors, np.zeros((LOCAL_BATCH, len(VOCAB), DIMENSION)))


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("kind", "compress"), [("table", False), ("row", False), ("row", True), ("column", True)]
)
def test_means_in_float16_are_divided_in_float32(kind, compress, native, rng):
    """Sums of a bag's rows exceed 65,504; shares of its gradient are below 2^-25.

    Only table 1 has more rows than bags, so that `compress` exchanges distinct rows of the others.
    """
    size, hotness, vocab = 2, 100, (3, 2000, 7, 3, 5)
    placement = placement_of(kind, size, vocab, DIMENSION)
    bags = Bags.of((hotness,) * 5, "mean", (True, False, False, False, False))
    ids = random_ids(rng, bags, vocab, (size, LOCAL_BATCH))
    gradient = float(np.float16(2e-6))
    options = EmbeddingOptions(
        1, bags=bags, exchange_dtype="float16", compress=compress, native_kernels=native,
        gradient="sum",
    )  # fmt: skip

    def body(cluster):
        embedding = ShardedEmbedding(placement, cluster, LOCAL_BATCH, options)
        for holder in embedding.fused_tables:
            holder.table.assign(tf.fill(holder.table.shape, 3000.0))
        plan = embedding.plan_ids(tf.constant(ids[cluster.rank]))
        vectors = lookup(embedding, plan).numpy()
        for holder in embedding.fused_tables:
            holder.table.assign(tf.zeros_like(holder.table))
        gradients = tf.fill([LOCAL_BATCH, len(vocab), DIMENSION], gradient)
        update(embedding, plan, gradients, 1.0)
        return vectors, embedding

    results = ThreadRanks(size).run(body)
    empty = (ids[..., :hotness] == EMPTY).all(-1)
    for rank, (vectors, _) in enumerate(results):
        assert not vectors[empty[rank], 0].any()
        vectors[empty[rank], 0] = 3000
        np.testing.assert_allclose(vectors, np.full(vectors.shape, 3000.0), rtol=2.0**-10)
    sums = row_gradients(bags, ids, np.full((*ids.shape[:2], 5, DIMENSION), gradient), vocab)
    for found, (expected, used) in zip(complete_tables([e for _, e in results], vocab), sums):
        # The sum of a distinct row's gradients is rounded to a multiple of 2^-24 by each rank.
        distinct = compress and len(found) < 2000
        rounded = 2.0**-24 if distinct else 0
        np.testing.assert_allclose(found, -expected, rtol=1e-4, atol=rounded)
        assert used.any() and gradient / hotness < 2.0**-25


@pytest.mark.parametrize("kind", ["row", "replicated"])
def test_bags_in_a_graph_for_batches_of_any_size(kind, rng):
    """One rank, whose collectives are the identity, in a `tf.function`."""
    placement, bags = placement_of(kind, 1, VOCAB, DIMENSION), mixed_bags(rng, len(VOCAB))
    embedding = ShardedEmbedding(
        placement, SingleProcessGroup(), 4, EmbeddingOptions(1, bags=bags, compress=True)
    )

    def step(categorical, gradients):
        view = embedding.for_batch(gradients.shape[0])
        plan = view.plan_ids(categorical)
        vectors = lookup(view, plan)
        update(view, plan, gradients, RATE)
        return vectors

    for batch in (1, 9):
        before = complete_tables([embedding])
        ids = random_ids(rng, bags, VOCAB, (batch,))
        gradients = 0.05 * rng.normal(size=(batch, len(VOCAB), DIMENSION)).astype(np.float32)
        function = tf.function(step, autograph=False)
        for _ in range(2):  # the sums of gradients begin with zeros in each step
            vectors = function(tf.constant(ids), tf.constant(gradients))
            np.testing.assert_allclose(vectors, pool(bags, ids, before), atol=1e-4)
            sums = row_gradients(bags, ids, gradients, VOCAB)
            before = [table - RATE * summed for table, (summed, _) in zip(before, sums)]
        for found, expected in zip(complete_tables([embedding]), before):
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_embedding_rejects_bags_of_another_number_of_tables():
    placement = placement_of("table", 1, VOCAB, DIMENSION)

    def body(cluster):
        with pytest.raises(ValueError, match=r"5 tables.*found 4"):
            ShardedEmbedding(placement, cluster, 3, EmbeddingOptions(1, bags=Bags.one_hot(4)))

    ThreadRanks(1).run(body)
