"""The benchmark's programs train one model: equal weights give equal losses for 100 steps."""

import subprocess
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.training import keras_dlrm
from benchmarks.training.batches import random_batches
from benchmarks.training.task import DENSE_FEATURES, Task
from model.dlrm import DenseDLRM, DLRMConfig
from model.embedding.interface import EmbeddingOptions
from model.embedding.placement import plan
from model.embedding.sharded import ShardedEmbedding
from ops.bags import Bags
from tests.support.model.interaction_checks import reference_of
from tests.support.paths import ROOT
from training.optimizers import SGD
from training.precision import LossScale
from training.runtime.process_group import SingleProcessGroup
from training.step import StepParts, TrainStep

TORCH = ROOT / ".venv-torch" / "bin" / "python"
STEPS, BATCH, LEARNING_RATE = 100, 64, 0.1
# No ReLU's input is so close to 0 that a rounding error switches the unit, which would change all
# later losses by far more than rounding.
DISTANCE = 1e-3
# Deviations of float32 training from float64 training whose weights alone are rounded, once in each
# step. float32 rounds several times as much: the products over up to 80 inputs, the sums over the
# batch and the loss. Over 24 seeds the largest deviation was 11 times that of the weights.
ROUNDINGS = 64
CROSSED = {"hotness": (3, 1, 5, 2), "cross_layers": 2, "cross_rank": 6}


@pytest.fixture(params=["dlrm", "dcnv2"])
def task(request, seed):
    return Task(
        vocab_sizes=(40, 3, 200, 1), dimension=16, bottom_mlp=(24, 16), top_mlp=(32, 24, 1),
        batches=(BATCH,), learning_rate=LEARNING_RATE, seed=seed % (1 << 20),
        **(CROSSED if request.param == "dcnv2" else {}),
    )  # fmt: skip


class Trained(NamedTuple):
    """Our training.

    Attributes:
        batches: (dense [B, 13], ids [B, W], label [B, 1]) of each step.
        before, after: {"bottom_0": [kernel, bias], ..., "table_0": [rows], ...}: the weights.
        losses: of each step.
        limits: relative deviations of the losses that rounding explains.
    """

    batches: list
    before: dict
    after: dict
    losses: np.ndarray
    limits: np.ndarray


@pytest.fixture
def ours(task, rng):
    """Our training with the task, whose losses are compared with float64."""
    tables, crossed = len(task.vocab_sizes), task.cross_layers > 0
    config = DLRMConfig(
        DENSE_FEATURES, tables, task.bottom_mlp, task.top_mlp, seed=task.seed,
        interaction="cross" if crossed else "dot", custom_interact=not crossed,
        cross_layers=task.cross_layers or 1, cross_rank=task.cross_rank, fused_mlp=crossed,
    )  # fmt: skip
    model, bags = DenseDLRM(config), Bags.of(task.ids)
    placement, ranks = plan(task.vocab_sizes, task.dimension, 1), SingleProcessGroup()
    options = EmbeddingOptions(seed=task.seed, bags=bags)
    embedding = ShardedEmbedding(placement, ranks, BATCH, options)
    optimizer = SGD(model.trainable_variables)
    step = TrainStep(StepParts(model, embedding, optimizer, ranks, LossScale(1.0)))
    before = weights(task, model, embedding)
    rows = [before[f"table_{table}"][0] for table in range(tables)]
    reference, rounded = (reference_of(model, rows, config.interaction, bags) for _ in range(2))
    batches, losses, expected, deviations = [], [], [], []
    for drawn in learnable_batches(task, rng):
        dense, ids, label = far_from_kinks(reference, *drawn)
        batch = {"dense": dense, "categorical": ids, "label": label}
        made = {name: tf.constant(array) for name, array in batch.items()}
        losses.append(float(step(made, task.learning_rate)[0]))
        arguments = dense, ids, label[:, 0], task.learning_rate
        expected.append(reference.step(*arguments))
        deviations.append(abs(rounded.step(*arguments) / expected[-1] - 1))
        round_weights(rounded)
        batches.append((dense, ids, label))
    # How training amplifies a rounding error depends on the seed.
    limits = ROUNDINGS * (2.0**-24 + np.maximum.accumulate(deviations))
    assert limits[-1] < 1e-3
    trained = Trained(batches, before, weights(task, model, embedding), np.array(losses), limits)
    assert_same_losses(expected, trained)
    assert np.mean(losses[-10:]) < 0.95 * np.mean(losses[:10])
    return trained


def learnable_batches(task, rng):
    """Yields 2 B samples for each step, whose labels depend on dense features and ids."""
    factors = rng.normal(size=DENSE_FEATURES)
    effects = [rng.normal(size=rows) for rows in task.vocab_sizes]
    bounds = np.repeat(task.vocab_sizes, task.ids)
    for _ in range(STEPS):
        dense = rng.standard_normal((2 * BATCH, DENSE_FEATURES), dtype=np.float32)
        ids = rng.integers(0, bounds, (2 * BATCH, len(bounds)), dtype=np.int32)
        slots = np.repeat(np.arange(len(effects)), task.ids)
        logits = dense @ factors + sum(effects[t][ids[:, slot]] for slot, t in enumerate(slots))
        chances = 1 / (1 + np.exp(-3 * logits[:, None]))
        yield dense, ids, (rng.random(chances.shape) < chances).astype(np.float32)


def far_from_kinks(reference, dense, ids, label):
    """Returns B of 2 B samples: those that are farthest from ReLU's kinks."""
    distance = reference.distance_from_kinks(dense, ids)
    chosen = np.argsort(-distance)[:BATCH]
    assert distance[chosen].min() > DISTANCE
    return dense[chosen], ids[chosen], label[chosen]


def round_weights(reference):
    """Rounds the weights of a `ReferenceDLRM` to float32."""
    for layers in (reference.bottom, reference.top):
        layers[:] = [tuple(np.float64(np.float32(array)) for array in layer) for layer in layers]
    for array in (*reference.interaction.parameters, *reference.tables):
        array[...] = np.float32(array)


def assert_same_losses(found, ours):
    assert len(found) == STEPS
    deviations = np.abs(np.array(found) / ours.losses - 1)
    assert (deviations <= ours.limits).all(), deviations / ours.limits


def assert_same_changes(found, after, before):
    """Compares weights {name: array} after training, relative to their changes."""
    assert set(found) == set(after)
    for name, expected in after.items():
        change = np.linalg.norm(expected - before[name])
        assert change > 0, name
        assert np.linalg.norm(found[name] - expected) < 2e-3 * change, name


def weights(task, model, embedding):
    """Returns our weights without padding; see `Trained`."""
    found = {}
    for part in ("bottom", "top"):
        for place, layer in enumerate(getattr(model, part).dense_layers):
            found[f"{part}_{place}"] = [layer.kernel.numpy(), layer.bias.numpy()]
    kernel, bias = found["top_0"]
    found["top_0"] = [kernel[: task.interacted], bias]
    cross = [variable.numpy() for variable in model.interaction.variables]
    for place in range(task.cross_layers):
        down, up, bias = cross[3 * place : 3 * place + 3]
        found[f"down_{place}"], found[f"up_{place}"] = [down], [up, bias]
    (holder,) = embedding.fused_tables
    rows = holder.table.numpy()
    for shard, first in zip(holder.shards, holder._first_rows):
        found[f"table_{shard.table}"] = [rows[first : first + task.vocab_sizes[shard.table]]]
    return found


def one_by_one(weights):
    """Returns {(layer, index): array} of {layer: arrays}."""
    return {(name, k): array for name, values in weights.items() for k, array in enumerate(values)}


def test_keras_peer_has_our_losses_and_weights(task, ours):
    peer = keras_dlrm.make_model(task)
    assert {layer.name for layer in peer.layers if layer.weights} == set(ours.before)
    for name, values in ours.before.items():
        peer.get_layer(name).set_weights(values)
    train = keras_dlrm.make_step(peer, task.learning_rate)
    losses = [float(train(*map(tf.constant, arrays))) for arrays in ours.batches]
    assert_same_losses(losses, ours)
    found = {name: peer.get_layer(name).get_weights() for name in ours.after}
    assert_same_changes(*map(one_by_one, (found, ours.after, ours.before)))


def test_keras_peer_has_sparse_table_gradients(task):
    peer = keras_dlrm.make_model(task)
    dense, ids, label = map(tf.constant, random_batches(task, 64, 1)[0])
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((peer([dense, ids]) - label) ** 2)
    tables = [peer.get_layer(f"table_{t}").embeddings for t in range(len(task.vocab_sizes))]
    assert all(isinstance(g, tf.IndexedSlices) for g in tape.gradient(loss, tables))


def to_torch(task, weights):
    """Returns weights, as in `Trained`, as {name: array} of TorchRec's parameters."""
    found, last = {}, f"top_{len(task.top_mlp) - 1}"
    for name, values in weights.items():
        part, _, place = name.partition("_")
        if part == "table":
            tables = "sparse_arch.embedding_bag_collection.embedding_bags"
            found[f"{tables}.{name}.weight"] = values[0]
            continue
        kernel, *bias = values
        if name == "top_0" and not task.cross_layers:
            kernel = kernel[in_torch_order(task)]
        names = {
            "bottom": [f"dense_arch.model._mlp.{place}._linear.{x}" for x in ("weight", "bias")],
            "top": [f"over_arch.model.0._mlp.{place}._linear.{x}" for x in ("weight", "bias")],
            "down": [f"inter_arch.crossnet.V_kernels.{place}"],
            "up": [f"inter_arch.crossnet.{x}.{place}" for x in ("W_kernels", "bias")],
        }[part]
        if name == last:
            names = ["over_arch.model.1.weight", "over_arch.model.1.bias"]
        found |= zip(names, [kernel.T.copy(), *bias], strict=True)
    return found


def in_torch_order(task):
    """Returns the order of our interaction's outputs in TorchRec's, whose pairs are i < j."""
    features = len(task.vocab_sizes) + 1
    pairs = [j * (j - 1) // 2 + i for i in range(features) for j in range(i + 1, features)]
    return [*range(task.dimension), *(task.dimension + np.array(pairs))]


@pytest.mark.skipif(not TORCH.exists(), reason="needs torchrec_environment.sh's environment")
def test_torchrec_peer_has_our_losses_and_weights(task, ours, tmp_path):
    before, after = to_torch(task, ours.before), to_torch(task, ours.after)
    batches = {
        f"{name}/{index}": array
        for index, arrays in enumerate(ours.batches)
        for name, array in zip(("dense", "ids", "label"), arrays)
    }
    files = [tmp_path / name for name in ("task.json", "given.npz", "found.npz")]
    task.write(files[0])
    np.savez(files[1], **before, **batches)
    done = subprocess.run(
        [TORCH, "-m", "tests.support.benchmarks.torchrec_steps", *files], cwd=ROOT, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = dict(np.load(files[2]))
    assert_same_losses(found.pop("losses"), ours)
    assert_same_changes(found, after, before)
