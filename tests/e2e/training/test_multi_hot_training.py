"""DLRM-DCNv2 with several ids per feature: 100 steps against float64 NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from model.dlrm import DenseDLRM, DLRMConfig
from model.embedding.interface import EmbeddingOptions
from model.embedding.optimizers import find
from model.embedding.placement import plan
from model.embedding.sharded import ShardedEmbedding
from ops.bags import EMPTY, Bags
from tests.support.reference import ReferenceCross, ReferenceDLRM, cross_layers
from training.optimizers import SGD
from training.precision import LossScale
from training.runtime.process_group import SingleProcessGroup
from training.step import StepParts, TrainStep

VOCAB, DIMENSION, DENSE, BATCH, STEPS = (60, 7, 300, 40), 8, 5, 48, 100
# One id, a fixed number, lists with a mean, lists with a sum.
BAGS = Bags.of((1, 3, 5, 4), ("sum", "sum", "mean", "sum"), (False, False, True, True))
RATE, TABLE_FACTOR = 0.05, 8.0


def random_batches(rng):
    """Yields (dense, ids [b, W], label): repeated ids in a bag, empty bags among the lists."""
    for _ in range(STEPS):
        ids = np.full((BATCH, BAGS.slots), EMPTY, np.int32)
        for feature, (first, rows) in zip(BAGS.each(), zip(BAGS.first_slots, VOCAB)):
            drawn = rng.integers(0, rows, (BATCH, feature.hotness))
            drawn[: BATCH // 4] = drawn[: BATCH // 4, :1]
            counts = rng.integers(0, feature.hotness + 1, BATCH)
            keep = np.arange(feature.hotness) < counts[:, None]
            own = np.where(keep, drawn, EMPTY) if feature.variable else drawn
            ids[:, first : first + feature.hotness] = own
        dense = rng.standard_normal((BATCH, DENSE)).astype(np.float32)
        yield dense, ids, rng.integers(0, 2, (BATCH, 1)).astype(np.float32)


# Without it, a gradient that is almost 0 makes a step of full size in either direction.
SMOOTH = {"sgd": {}, "adagrad": {"initial_accumulator": 0.01}}


def make(seed, *, fused, native, optimizer="sgd", **options):
    config = DLRMConfig(
        DENSE, len(VOCAB), (16, DIMENSION), (24, 1), interaction="cross", cross_layers=3,
        cross_rank=6, seed=seed, fused_mlp=fused,
    )  # fmt: skip
    model, ranks = DenseDLRM(config), SingleProcessGroup()
    options = EmbeddingOptions(
        seed=seed, optimizer=find(optimizer).with_options(SMOOTH[optimizer]), bags=BAGS,
        native_kernels=native, **options,
    )  # fmt: skip
    embedding = ShardedEmbedding(plan(VOCAB, DIMENSION, 1), ranks, BATCH, options)
    parts = StepParts(
        model, embedding, SGD(model.trainable_variables), ranks, LossScale(1.0),
        embedding_rate=TABLE_FACTOR,
    )  # fmt: skip
    return model, embedding, TrainStep(parts)


def rows_of(embedding):
    (holder,) = embedding.fused_tables
    rows = holder.table.numpy()
    firsts = zip(holder.shards, holder._first_rows)
    return {shard.table: rows[first : first + shard.rows] for shard, first in firsts}


def reference_of(model, embedding, optimizer):
    layers = (
        [(layer.kernel.numpy(), layer.bias.numpy()) for layer in mlp.dense_layers]
        for mlp in (model.bottom, model.top)
    )
    interaction = ReferenceCross(cross_layers([v.numpy() for v in model.interaction.variables]))
    tables = rows_of(embedding)
    return ReferenceDLRM(
        *layers, [tables[t] for t in range(len(VOCAB))], optimizer, interaction=interaction,
        bags=BAGS, table_rate=TABLE_FACTOR, options=SMOOTH[optimizer],
    )  # fmt: skip


def check_change(found, expected, before):
    error, change = np.linalg.norm(found - expected), np.linalg.norm(expected - before)
    assert 0 < error < 1e-3 * change


@pytest.mark.parametrize(
    "options",
    [
        {"fused": True, "native": True},
        {"fused": True, "native": True, "optimizer": "adagrad"},
        {"fused": False, "native": False},
        {"fused": True, "native": True, "compress": True},
    ],
    ids=["fused", "adagrad", "tensorflow", "dedup"],
)
def test_hundred_steps_equal_float64(options, seed, rng):
    model, embedding, step = make(seed % 1000, **options)
    reference = reference_of(model, embedding, options.get("optimizer", "sgd"))
    before, cross = rows_of(embedding), [w.numpy() for w in model.interaction.variables]
    ours, expected = [], []
    for dense, ids, label in random_batches(rng):
        batch = {"dense": dense, "categorical": ids, "label": label}
        ours.append(float(step({n: tf.constant(a) for n, a in batch.items()}, RATE)[0]))
        expected.append(reference.step(dense, ids, label[:, 0], RATE))
    np.testing.assert_allclose(ours, expected, rtol=2e-5)
    assert step.traces() == 1
    assert expected[-1] != expected[0]
    found = rows_of(embedding)
    for table, rows in enumerate(reference.tables):
        check_change(found[table], rows, before[table])
    weights = [w.numpy() for w in model.interaction.variables]
    for weight, wanted, was in zip(weights, reference.interaction.parameters, cross):
        check_change(weight, wanted, was)
