"""An embedding for batches of another size, over the same tables."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from model.embedding.interface import EmbeddingOptions, lookup, update
from model.embedding.placement import plan
from model.embedding.sharded import ShardedEmbedding
from tests.support.thread_ranks import ThreadRanks

VOCAB, DIMENSION = [40, 3, 11, 25], 4


def rows_of(embedding):
    """Returns {(table, id): vector} of what a rank holds."""
    return {
        (shard.table, shard.row_offset + shard.row_stride * row): values
        for holder in embedding.fused_tables
        for index, shard in enumerate(holder.shards)
        for row, values in enumerate(holder.read(index, 0, shard.rows))
    }


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    ("policy", "options", "compress"),
    [("table", {}, False), ("table", {}, True), ("row", {}, False),
     ("auto", {"replicate_below_rows": 12}, False), ("auto", {"replicate_below_rows": 99}, False)],
)  # fmt: skip
def test_for_batch_shares_the_tables(size, policy, options, compress, seed, rng):
    placement = plan(VOCAB, DIMENSION, size, policy=policy, **options)
    batches = {b: rng.integers(0, VOCAB, (size, b, len(VOCAB)), np.int32) for b in (6, 1, 17)}

    def body(cluster):
        embedding = ShardedEmbedding(
            placement, cluster, 6, EmbeddingOptions(seed=seed, compress=compress)
        )
        before = [holder.table.ref() for holder in embedding.fused_tables]
        found = {}
        for b, ids in batches.items():
            view = embedding.for_batch(b)
            assert [holder.table.ref() for holder in view.fused_tables] == before
            found[b] = lookup(view, view.plan_ids(tf.constant(ids[cluster.rank]))).numpy()
        rows = rows_of(embedding)
        view = embedding.for_batch(1)
        planned = view.plan_ids(tf.constant(batches[1][cluster.rank]))
        update(view, planned, tf.ones([1, len(VOCAB), DIMENSION]), 0.5)
        return found, rows, rows_of(embedding)

    results = ThreadRanks(size).run(body)
    rows = {key: values for _, held, _ in results for key, values in held.items()}
    for b, ids in batches.items():
        for rank, (found, _, _) in enumerate(results):
            expected = [[rows[t, i] for t, i in enumerate(sample)] for sample in ids[rank]]
            np.testing.assert_array_equal(found[b], np.array(expected))
    # An update through the view changes the embedding's rows.
    uses = collections.Counter((t, i) for sample in batches[1][:, 0] for t, i in enumerate(sample))
    for _, before, after in results:
        for key, values in before.items():
            expected = values - 0.5 * uses[key] / size
            np.testing.assert_allclose(after[key], expected, rtol=1e-6, atol=1e-6)
