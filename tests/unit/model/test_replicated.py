"""Replicated tables train as any others do, and touch no row that no sample names."""

import numpy as np
import pytest
import tensorflow as tf

from model.embedding.interface import EmbeddingOptions, lookup, update
from model.embedding.optimizers import OPTIMIZERS
from model.embedding.placement import plan
from model.embedding.sharded import ShardedEmbedding
from tests.support.row_optimizers import OPTIONS
from training.runtime.process_group import SingleProcessGroup

VOCAB, DIMENSION, BATCH = (30, 4, 300), 8, 16


def train(optimizer, native, batches, **placement):
    """Returns (vectors of every row after training, rows and states by table)."""
    embedding = ShardedEmbedding(
        plan(VOCAB, DIMENSION, 1, **placement), SingleProcessGroup(), BATCH,
        EmbeddingOptions(seed=3, optimizer=optimizer, native_kernels=native),
    )  # fmt: skip
    for ids, gradients in batches:
        planned = embedding.plan_ids(tf.constant(ids))
        lookup(embedding, planned)
        update(embedding, planned, tf.constant(gradients), 0.3)
    return {
        (stored.shard.table, stored.state): stored.read(0, stored.shape[0])
        for stored in embedding.stored_tables().all
    }


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_replicated_tables_equal_exchanged_ones(name, native):
    seed = int(np.random.default_rng().integers(1 << 30))
    print(f"seed {seed}")
    generator = np.random.default_rng(seed)
    options = dict(OPTIONS.get(name, {}))
    if "initial_accumulator" in OPTIMIZERS[name].hyperparameters:
        options["initial_accumulator"] = 0.1
    optimizer = OPTIMIZERS[name].with_options(options)
    # Ids below 10 alone, so that rows stay untouched.
    batches = [
        (
            (generator.integers(0, 10, (BATCH, len(VOCAB))) % np.array(VOCAB)).astype(np.int32),
            generator.normal(size=(BATCH, len(VOCAB), DIMENSION)).astype(np.float32),
        )
        for _ in range(4)
    ]
    exchanged = train(optimizer, native, batches)
    replicated = train(optimizer, native, batches, replicate_below_rows=100)
    initial = train(optimizer, native, [])
    assert replicated.keys() == exchanged.keys() == initial.keys()
    for key, values in replicated.items():
        np.testing.assert_allclose(values, exchanged[key], rtol=1e-4, atol=1e-5)
        assert np.any(values != initial[key])
    for (table, state), values in replicated.items():
        untouched = values[10 if table != 1 else 4 :]
        np.testing.assert_array_equal(untouched, initial[table, state][10 if table != 1 else 4 :])
