"""Looks up and updates multi-hot features on this job's ranks; fails if they are wrong.

tests/ranks/model/test_bags.py runs `bag_worker.py SEED` under horovodrun.
"""

import sys

import numpy as np

from training.runtime import environment

environment.prepare()
with environment.quick_imports():
    from training.runtime import process_group

VOCAB, DIMENSION, LOCAL_BATCH, RATE = (50, 1, 7, 3, 40), 8, 16, 0.5
CASES = (("table", False), ("column", False), ("column", True), ("replicated", True))


def main():
    """Compares each case's vectors and this rank's rows with NumPy."""
    import tensorflow as tf

    from model.embedding.interface import EmbeddingOptions, lookup, update
    from model.embedding.sharded import ShardedEmbedding
    from tests.support.model.bag_reference import mixed_bags, pool, random_ids, row_gradients
    from tests.support.model.placements import placement_of

    cluster, seed = process_group.connect(), int(sys.argv[1])
    rng = np.random.default_rng(seed)  # the same on every rank
    single = process_group.SingleProcessGroup()
    complete = ShardedEmbedding(
        placement_of("table", 1, VOCAB, DIMENSION), single, 1, EmbeddingOptions(seed)
    )
    (holder,) = complete.fused_tables
    initial = [holder.read(table, 0, rows) for table, rows in enumerate(VOCAB)]
    for kind, compress in CASES:
        bags = mixed_bags(rng, len(VOCAB))
        ids = random_ids(rng, bags, VOCAB, (cluster.size, LOCAL_BATCH))
        shape = (cluster.size, LOCAL_BATCH, len(VOCAB), DIMENSION)
        gradients = rng.normal(size=shape).astype(np.float32)
        embedding = ShardedEmbedding(
            placement_of(kind, cluster.size, VOCAB, DIMENSION), cluster, LOCAL_BATCH,
            EmbeddingOptions(seed, compress=compress, bags=bags),
        )  # fmt: skip

        def step(categorical, gradients, embedding=embedding):
            plan = embedding.plan_ids(categorical)
            vectors = lookup(embedding, plan)
            update(embedding, plan, gradients, RATE)
            return vectors

        vectors = tf.function(step, autograph=False)(
            tf.constant(ids[cluster.rank]), tf.constant(gradients[cluster.rank])
        )
        expected = pool(bags, ids[cluster.rank], initial)
        np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-5)
        sums = row_gradients(bags, ids, gradients, VOCAB)
        for holder in embedding.fused_tables:
            for index, shard in enumerate(holder.shards):
                table = initial[shard.table] - RATE / cluster.size * sums[shard.table][0]
                rows = shard.row_offset + shard.row_stride * np.arange(shard.rows)
                expected = table[rows, shard.column_start : shard.column_end]
                found = holder.read(index, 0, shard.rows)
                # A row that every bag contains is a sum of hundreds of gradients.
                np.testing.assert_allclose(
                    found, expected, rtol=1e-5, atol=1e-5, err_msg=f"{kind}, {shard}"
                )
        print(f"{kind}, compress={compress}: equal")
    cluster.shutdown()


if __name__ == "__main__":
    main()
