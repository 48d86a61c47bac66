"""The benchmark's programs train one model: equal weights give equal losses."""

import json
import math
import subprocess

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
from tests.support.paths import ROOT
from training.optimizers import SGD
from training.precision import LossScale
from training.runtime.process_group import SingleProcessGroup
from training.step import StepParts, TrainStep

TORCH = ROOT / ".venv-torch" / "bin" / "python"
STEPS = 6
# Small enough not to diverge, which would amplify rounding differences.
LEARNING_RATE = 0.05


@pytest.fixture(params=["dlrm", "dcnv2"])
def task(request, seed):
    crossed = {"hotness": (3, 1, 5, 2), "cross_layers": 2, "cross_rank": 6}
    return Task(
        vocab_sizes=(40, 3, 200, 1), dimension=16, bottom_mlp=(24, 16), top_mlp=(32, 8, 1),
        batches=(64,), learning_rate=LEARNING_RATE, seed=seed % (1 << 20),
        **(crossed if request.param == "dcnv2" else {}),
    )  # fmt: skip


def make_ours(task):
    tables = len(task.vocab_sizes)
    crossed = task.cross_layers > 0
    config = DLRMConfig(
        DENSE_FEATURES, tables, task.bottom_mlp, task.top_mlp, seed=task.seed,
        interaction="cross" if crossed else "dot", custom_interact=not crossed,
        cross_layers=task.cross_layers or 1, cross_rank=task.cross_rank, fused_mlp=crossed,
    )  # fmt: skip
    model = DenseDLRM(config)
    placement, ranks = plan(task.vocab_sizes, task.dimension, 1), SingleProcessGroup()
    options = EmbeddingOptions(seed=task.seed, bags=Bags.of(task.ids))
    embedding = ShardedEmbedding(placement, ranks, task.batches[0], options)
    optimizer = SGD(model.trainable_variables)
    step = TrainStep(StepParts(model, embedding, optimizer, ranks, LossScale(1.0)))
    return model, embedding, step


def weights(task, model, embedding):
    """Returns our {"bottom_0", ...: (kernel, bias), "table_0", ...: rows} without padding."""
    found = {}
    for part in ("bottom", "top"):
        for place, layer in enumerate(getattr(model, part).dense_layers):
            found[f"{part}_{place}"] = layer.kernel.numpy(), layer.bias.numpy()
    kernel, bias = found["top_0"]
    found["top_0"] = kernel[: task.interacted], bias
    cross = [variable.numpy() for variable in model.interaction.variables]
    for place in range(task.cross_layers):
        down, up, bias = cross[3 * place : 3 * place + 3]
        found[f"down_{place}"], found[f"up_{place}"] = (down,), (up, bias)
    (holder,) = embedding.fused_tables
    rows = holder.table.numpy()
    for shard, first in zip(holder.shards, holder._first_rows):
        found[f"table_{shard.table}"] = rows[first : first + task.vocab_sizes[shard.table]]
    return found


def our_losses(task, step, batches):
    names = ("dense", "categorical", "label")
    made = [dict(zip(names, map(tf.constant, arrays))) for arrays in batches]
    return [float(step(batch, task.learning_rate)[0]) for batch in made]


def test_keras_peer_has_our_losses_and_weights(task):
    model, embedding, step = make_ours(task)
    peer = keras_dlrm.make_model(task)
    given = weights(task, model, embedding)
    assert {layer.name for layer in peer.layers if layer.weights} == set(given)
    for name, values in given.items():
        peer.get_layer(name).set_weights(values if isinstance(values, tuple) else [values])
    batches = random_batches(task, task.batches[0], STEPS)
    train = keras_dlrm.make_step(peer, task.learning_rate)
    theirs = [float(train(*map(tf.constant, arrays))) for arrays in batches]
    ours = our_losses(task, step, batches)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4)
    assert len(set(ours)) == STEPS
    for name, values in weights(task, model, embedding).items():
        after = peer.get_layer(name).get_weights()
        before = given[name] if isinstance(values, tuple) else [given[name]]
        for theirs_, ours_, was in zip(
            after, values if isinstance(values, tuple) else [values], before
        ):
            # A rounding error may switch a ReLU for one sample of one step.
            moved = np.linalg.norm(ours_ - was)
            assert np.linalg.norm(theirs_ - ours_) < 0.05 * moved, name


def test_keras_peer_has_sparse_table_gradients(task):
    peer = keras_dlrm.make_model(task)
    dense, ids, label = map(tf.constant, random_batches(task, 64, 1)[0])
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((peer([dense, ids]) - label) ** 2)
    tables = [peer.get_layer(f"table_{t}").embeddings for t in range(len(task.vocab_sizes))]
    assert all(isinstance(g, tf.IndexedSlices) for g in tape.gradient(loss, tables))


@pytest.mark.skipif(not TORCH.exists(), reason="needs torchrec_environment.sh's environment")
def test_torchrec_peer_has_our_losses(task, tmp_path):
    model, embedding, step = make_ours(task)
    given = weights(task, model, embedding)
    features, width = len(task.vocab_sizes) + 1, task.dimension
    if not task.cross_layers:
        # TorchRec's pairs are i < j, row-major.
        order = [j * (j - 1) // 2 + i for i in range(features) for j in range(i + 1, features)]
        kernel, bias = given["top_0"]
        given["top_0"] = kernel[[*range(width), *(width + np.array(order))]], bias
    arrays = {"steps": np.array(STEPS)}
    last = len(task.top_mlp) - 1
    for name, values in given.items():
        part, _, place = name.partition("_")
        if part in ("down", "up"):
            cross = f"inter_arch.crossnet.{'V' if part == 'down' else 'W'}_kernels.{place}"
            arrays[cross] = values[0].T.copy()
            if part == "up":
                arrays[f"inter_arch.crossnet.bias.{place}"] = values[1]
            continue
        if part == "table":
            tables = "sparse_arch.embedding_bag_collection.embedding_bags"
            arrays[f"{tables}.{name}.weight"] = values
            continue
        layer = {
            "bottom": f"dense_arch.model._mlp.{place}._linear",
            "top": f"over_arch.model.0._mlp.{place}._linear",
        }[part]
        if name == f"top_{last}":
            layer = "over_arch.model.1"
        arrays[f"{layer}.weight"], arrays[f"{layer}.bias"] = values[0].T.copy(), values[1]
    batches = random_batches(task, task.batches[0], STEPS)
    for index, parts in enumerate(batches):
        arrays.update({f"{n}_{index}": a for n, a in zip(("dense", "ids", "label"), parts)})
    np.savez(tmp_path / "given.npz", **arrays)
    task.write(tmp_path / "task.json")
    command = [TORCH, "-m", "tests.support.benchmarks.torchrec_losses"]
    done = subprocess.run(
        [*command, tmp_path / "task.json", tmp_path / "given.npz"], cwd=ROOT, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(theirs, our_losses(task, step, batches), rtol=1e-4)
    assert all(math.isfinite(loss) for loss in theirs)
