"""Replicated tables train like exchanged tables, and change only rows in the batch."""

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


def train(optimizer, native, seed, batches, **placement):
    """Returns {(table, state): values} after training."""
    embedding = ShardedEmbedding(
        plan(VOCAB, DIMENSION, 1, **placement), SingleProcessGroup(), BATCH,
        EmbeddingOptions(seed=seed, optimizer=optimizer, native_kernels=native),
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
def test_replicated_tables_train_like_exchanged_tables(name, native, seed, rng):
    options = dict(OPTIONS.get(name, {}))
    if "initial_accumulator" in OPTIMIZERS[name].hyperparameters:
        options["initial_accumulator"] = 0.1
    optimizer = OPTIMIZERS[name].with_options(options)
    # Only ids below 10, so that some rows stay untouched.
    batches = [
        (
            (rng.integers(0, 10, (BATCH, len(VOCAB))) % np.array(VOCAB)).astype(np.int32),
            rng.normal(size=(BATCH, len(VOCAB), DIMENSION)).astype(np.float32),
        )
        for _ in range(4)
    ]
    exchanged = train(optimizer, native, seed, batches)
    replicated = train(optimizer, native, seed, batches, replicate_below_rows=100)
    initial = train(optimizer, native, seed, [])
    assert replicated.keys() == exchanged.keys() == initial.keys()
    for key, values in replicated.items():
        np.testing.assert_allclose(values, exchanged[key], rtol=1e-4, atol=1e-5)
        assert np.any(values != initial[key])
    for (table, state), values in replicated.items():
        untouched = values[10 if table != 1 else 4 :]
        np.testing.assert_array_equal(untouched, initial[table, state][10 if table != 1 else 4 :])
