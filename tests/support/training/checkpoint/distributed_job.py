"""A job on threads as ranks whose every value is a function of seed, variable and id."""

import numpy as np
import tensorflow as tf

from model.dlrm import DenseDLRM, DLRMConfig
from model.embedding.interface import EmbeddingOptions
from model.embedding.placement import Assignment, Placement
from model.embedding.sharded import ShardedEmbedding
from model.embedding.sok import SokEmbedding
from tests.support.model import fake_sok
from training.checkpoint.saver import Saver
from training.checkpoint.state import State
from training.optimizers import Adam
from training.precision import LossScale
from training.telemetry.journal import Journal

VOCAB, DIMENSION = (50, 1, 7, 3, 40), 8
FLAGS = {
    "embedding_dim": DIMENSION, "global_batch_size": 24, "lr": 1.0, "optimizer": "sgd",
    "embedding_optimizer": "sgd", "loss_scale": "dynamic",
}  # fmt: skip
DATA = {"train_samples": 1000}


def placement_of(kind, size):
    """Returns a `Placement` of VOCAB: "table", "row", "column" or "replicated" (some tables)."""
    table = [Assignment("table", (t % size,)) for t in range(len(VOCAB))]
    row, replicated = Assignment("row"), Assignment("replicated")
    assignments = {
        "table": table,
        "row": [row] * len(VOCAB),
        "column": [Assignment("column", (0, size - 1)), *table[1:4], row],
        "replicated": [table[0], replicated, row, replicated, table[4]],
    }
    return Placement(VOCAB, DIMENSION, size, tuple(assignments[kind]))


def job(cluster, kind="table", optimizer="sgd", seed=1):
    """Returns the `State` of a job; kinds "sok-row" and "sok-table" use the SOK backend."""
    dense_model = DenseDLRM(DLRMConfig(5, len(VOCAB), (16, DIMENSION), (16, 1), seed=seed))
    adam = Adam(dense_model.trainable_variables)
    batch = 24 // cluster.size
    backend, _, kind = kind.rpartition("-")
    placement = placement_of(kind, cluster.size)
    arguments = (placement, cluster, batch, EmbeddingOptions(seed=seed, optimizer=optimizer))
    if backend:
        embedding = SokEmbedding(fake_sok.module(cluster), *arguments)
    else:
        embedding = ShardedEmbedding(*arguments)
    return State(dense_model, adam, LossScale(8.0, dynamic=True), embedding, cluster)


def named_values(group, index, variable, seed):
    """Returns the values of variable `index` of a group, in its dtype."""
    rng = np.random.default_rng([seed, len(group), index])
    values = rng.integers(-9, 9, variable.shape)
    return tf.cast(values, variable.dtype).numpy()


def stored_values(stored, seed):
    """Returns the values of a `StoredRows`, from those of its complete table."""
    shard = stored.shard
    rng = np.random.default_rng([seed, shard.table, len(stored.state)])
    table = rng.normal(size=(VOCAB[shard.table], DIMENSION)).astype(np.float32)
    ids = shard.row_offset + shard.row_stride * np.arange(shard.rows)
    rows = table[ids, shard.column_start : shard.column_end]
    return rows if len(stored.shape) == 2 else rows[:, 0]


def fill(state, seed):
    """Overwrites every value of a job."""
    for group, variables in state.named.items():
        for index, variable in enumerate(variables.values()):
            variable.assign(named_values(group, index, variable, seed))
    for stored in state.tables.all:
        stored.write(0, stored_values(stored, seed))


def check(state, seed):
    """Asserts that every value of a job is as `fill` writes it."""
    for group, variables in state.named.items():
        for index, (name, variable) in enumerate(variables.items()):
            expected = named_values(group, index, variable, seed)
            np.testing.assert_array_equal(variable.numpy(), expected, err_msg=f"{group}.{name}")
    for stored in state.tables.all:
        found = stored.read(0, stored.shape[0])
        np.testing.assert_array_equal(found, stored_values(stored, seed), err_msg=stored.name)


def make_saver(cluster, path, state, *, keep=9, interval=None, journal=None):
    """Returns a `Saver` for a job."""
    return Saver(
        path, cluster, state, {"flags": FLAGS, "data": DATA, "versions": {}},
        keep=keep, interval=interval, timeout=20, journal=journal or Journal(),
    )  # fmt: skip


def save(cluster, path, kind="table", optimizer="sgd", *, seed, step=7):
    """Writes the checkpoint of a filled job on one rank; returns its `State`."""
    state = job(cluster, kind, optimizer)
    fill(state, seed)
    saver = make_saver(cluster, path, state)
    saver.begin(step, 0, [])
    saver.finish()
    return state
