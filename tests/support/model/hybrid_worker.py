"""Trains small models on this job's ranks, one per combination of placement, exchange, optimizer.

tests/ranks/model/test_hybrid.py runs `hybrid_worker.py FOLDER all|first|second SEED` under
horovodrun; rank r writes FOLDER/<case>.<r>.npz.
"""

import concurrent.futures
import itertools
import os
import pathlib
import sys
import traceback

import numpy as np

from training.runtime import environment

environment.prepare()
with environment.quick_imports():
    from training.runtime import process_group

VOCAB, DIMENSION, DENSE = (50, 1, 7, 3, 40), 8, 5
BATCH, STEPS, RATE = 24, 10, 0.1
BOTTOM, TOP = (16, DIMENSION), (16, 1)
# Adagrad's epsilon is far above the rounding errors of gradients, which it would turn into steps.
OPTIONS = {
    "adagrad": {"epsilon": 2.0**-10},
    "rowwise_adagrad": {"epsilon": 2.0**-10},
    "ftrl": {"l1": 1e-4, "l2": 1e-3, "beta": 0.05},
    "adam": {"beta1": 0.75, "beta2": 0.875, "epsilon": 2.0**-10},
}
AT_ONCE = 8
PLACEMENTS = ("table", "row", "mixed", "column")


def cases(size, which="all"):
    """Returns {name: options} of the models to train.

    "first" and "second" are different quarters of the combinations, each with every pair of
    options. Optimizers without an effect on the exchange are not in "second".
    """
    found = []
    for index, kind in enumerate(PLACEMENTS[: 4 if size > 1 else 3]):
        for compress, exact, sgd in itertools.product((False, True), repeat=3):
            pairs = exact == compress ^ (index % 2) ^ (which == "second")
            pairs = pairs and sgd == compress ^ (index // 2)
            if which == "all" or pairs:
                dtype = "float32" if exact else "bfloat16"
                found.append((kind, compress, dtype, "sgd" if sgd else "adagrad", "mean"))
    if which != "second":
        found += [
            ("mixed", False, "float32", "rowwise_adagrad", "mean"),
            ("mixed", False, "float32", "ftrl", "mean"),
            ("column" if size > 1 else "table", True, "float32", "ftrl", "mean"),
            ("mixed", False, "float32", "adam", "mean"),
            ("column" if size > 1 else "table", True, "float32", "adam", "mean"),
            ("replicated", False, "float32", "adam", "mean"),
            ("replicated", False, "float32", "sgd", "mean"),
        ]
    found += [(kind, False, "float32", "sgd", "sum") for kind in ("table", "replicated")]
    found.append(("replicated", True, "float32", "adagrad", "mean"))
    return {"-".join(map(str, options)): options for options in found}


def batches(seed):
    """Returns the global batches, with power-law ids, so that ids repeat."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(STEPS):
        ids = [np.minimum(rng.zipf(1.3, BATCH) - 1, rows - 1).astype(np.int32) for rows in VOCAB]
        dense = rng.normal(size=(BATCH, DENSE)).astype(np.float32)
        label = rng.integers(0, 2, (BATCH, 1)).astype(np.float32)
        result.append((dense, np.stack(ids, axis=1), label))
    return result


def shards_of(embedding):
    """Returns {table_column: (ids, values)} of this rank's shards."""
    parts = {}
    for holder in embedding.fused_tables:
        for index, shard in enumerate(holder.shards):
            ids = shard.row_offset + shard.row_stride * np.arange(shard.rows)
            values = holder.read(index, 0, shard.rows)
            parts[f"{shard.table}_{shard.column_start}"] = (ids, values)
    return parts


class NamedCluster:
    """The ranks for one of several models that train at once: its collectives have its name."""

    def __init__(self, cluster, model):
        self._cluster, self._model = cluster, model

    def __getattr__(self, name):
        return getattr(self._cluster, name)

    def alltoall(self, tensor, splits, name):
        return self._cluster.alltoall(tensor, splits, f"{self._model}.{name}")

    def all_reduce_mean(self, tensors, name):
        return self._cluster.all_reduce_mean(tensors, f"{self._model}.{name}")


def build(cluster, seed, kind, compress, dtype, optimizer, gradient):
    """Returns (step, embedding, arrays to save) of one model."""
    import tensorflow as tf

    from model.dlrm import DenseDLRM, DLRMConfig
    from model.embedding.interface import EmbeddingOptions
    from model.embedding.optimizers import OPTIMIZERS
    from model.embedding.sharded import ShardedEmbedding
    from tests.support.model.placements import placement_of
    from training.optimizers import SGD
    from training.precision import LossScale
    from training.step import StepParts, TrainStep

    dense_model = DenseDLRM(DLRMConfig(DENSE, len(VOCAB), BOTTOM, TOP, seed=seed))
    # Every unit is active, far from its ReLU's kink: there a rounding error could switch it, which
    # changes all later steps by more than any bound that would show an error.
    for mlp, hidden, bias in ((dense_model.bottom, BOTTOM, 1.0), (dense_model.top, TOP[:-1], 2.0)):
        for layer in mlp.dense_layers[: len(hidden)]:
            layer.kernel.assign(0.1 * layer.kernel)
            layer.bias.assign(tf.fill(layer.bias.shape, bias))
    cluster.broadcast(dense_model.variables)
    embedding = ShardedEmbedding(
        placement_of(kind, cluster.size, VOCAB, DIMENSION),
        cluster,
        BATCH // cluster.size,
        EmbeddingOptions(
            seed,
            OPTIMIZERS[optimizer].with_options(OPTIONS.get(optimizer, {})),
            dtype,
            gradient,
            compress,
        ),
    )
    saved = {}
    for name, (ids, values) in shards_of(embedding).items():
        saved[f"initial_{name}"], saved[f"ids_{name}"] = values, ids
    saved["bottom"], saved["top"] = (
        np.array([np.concatenate([v.numpy().reshape(-1) for v in mlp.variables])])
        for mlp in (dense_model.bottom, dense_model.top)
    )
    step = TrainStep(
        StepParts(
            dense_model, embedding, SGD(dense_model.trainable_variables), cluster, LossScale(1.0)
        )
    )
    return step, embedding, saved


def train(cluster, seed, step, embedding):
    """Trains one model on this rank's share of the batches; returns arrays to save."""
    import tensorflow as tf

    losses = []
    share = slice(cluster.rank * BATCH // cluster.size, (cluster.rank + 1) * BATCH // cluster.size)
    for dense, ids, label in batches(seed):
        batch = {"dense": dense[share], "categorical": ids[share], "label": label[share]}
        batch = {key: tf.constant(value) for key, value in batch.items()}
        losses.append(float(step(batch, RATE)[0]))
    assert step.traces() == 1
    final = {f"final_{name}": values for name, (_, values) in shards_of(embedding).items()}
    return {**final, "losses": np.array(losses)}


def main():
    """Trains all cases, several at once, because one alone would mostly wait for other ranks."""
    folder = pathlib.Path(sys.argv[1])
    cluster = process_group.connect()
    seed, models = int(sys.argv[3]), {}
    for name, options in cases(cluster.size, sys.argv[2]).items():
        named = NamedCluster(cluster, name)
        models[name] = (named, *build(named, seed, *options))

    def finish(name):
        named, step, embedding, initial = models[name]
        try:
            trained = train(named, seed, step, embedding)
            np.savez(folder / f"{name}.{cluster.rank}.npz", **initial, **trained)
        except BaseException:
            # The other models would wait for this one's ranks.
            traceback.print_exc()
            os._exit(1)

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(finish, models))
    cluster.shutdown()


if __name__ == "__main__":
    main()
