"""Trains small models on this job's ranks, one for each way to hold and exchange the tables.

Run under horovodrun by test_hybrid.py: hybrid_worker.py FOLDER all|half; rank r writes
FOLDER/<case>.<r>.npz.
"""

import concurrent.futures
import itertools
import pathlib
import sys

import numpy as np

from training.runtime import environment

environment.prepare()
with environment.quick_imports():
    from training.runtime import process_group

VOCAB, DIMENSION, DENSE = (50, 1, 7, 3, 40), 8, 5
BATCH, STEPS, RATE = 24, 50, 0.1
BOTTOM, TOP = (16, DIMENSION), (16, 1)
OPTIONS = {"ftrl": {"l1": 1e-4, "l2": 1e-3, "beta": 0.05}}
AT_ONCE = 8
PLACEMENTS = ("table", "row", "mixed", "column")


def cases(size, half=False):
    """Returns {name: options} of the models to train.

    Half of the combinations still hold every pair of options.
    """
    found = {}
    for kind, compress, dtype, optimizer in itertools.product(
        PLACEMENTS, (False, True), ("float32", "bfloat16"), ("sgd", "adagrad")
    ):
        if kind == "column" and size == 1:
            continue
        parity = PLACEMENTS.index(kind) + compress + (dtype == "float32") + (optimizer == "sgd")
        if half and parity % 2:
            continue
        found[f"{kind}-{compress}-{dtype}-{optimizer}-mean"] = (kind, compress, dtype, optimizer)
    found["mixed-False-float32-rowwise_adagrad-mean"] = (
        "mixed", False, "float32", "rowwise_adagrad",
    )  # fmt: skip
    for kind, compress in (("mixed", False), ("column" if size > 1 else "table", True)):
        found[f"{kind}-{compress}-float32-ftrl-mean"] = (kind, compress, "float32", "ftrl")
    for kind in ("table", "replicated"):
        for gradient in ("mean", "sum"):
            found[f"{kind}-False-float32-sgd-{gradient}"] = (kind, False, "float32", "sgd")
    found["replicated-True-float32-adagrad-mean"] = ("replicated", True, "float32", "adagrad")
    return found


def batches():
    """Returns the global batches: power-law ids, so that they repeat."""
    generator = np.random.default_rng(7)
    result = []
    for _ in range(STEPS):
        ids = [
            np.minimum(generator.zipf(1.3, BATCH) - 1, rows - 1).astype(np.int32) for rows in VOCAB
        ]
        dense = generator.normal(size=(BATCH, DENSE)).astype(np.float32)
        label = generator.integers(0, 2, (BATCH, 1)).astype(np.float32)
        result.append((dense, np.stack(ids, axis=1), label))
    return result


def placement_of(kind, size):
    """Returns a placement by hand."""
    from model.embedding.placement import Assignment, Placement

    table = [Assignment("table", (t % size,)) for t in range(len(VOCAB))]
    chosen = {
        "table": table,
        "row": [Assignment("row")] * len(VOCAB),
        "mixed": [Assignment("row") if t in (0, 1) else table[t] for t in range(len(VOCAB))],
        "column": [Assignment("column", (0, size - 1)), *table[1:4], Assignment("row")],
        "replicated": [table[0], Assignment("replicated"), Assignment("row"),
                       Assignment("replicated"), table[4]],
    }[kind]  # fmt: skip
    return Placement(VOCAB, DIMENSION, size, tuple(chosen))


def whole_tables(embedding, state):
    """Returns {table: (ids, first column, values)} of this rank's shards."""
    parts = {}
    for holder in embedding.fused_tables:
        if state not in holder.states:
            continue
        for index, shard in enumerate(holder.shards):
            ids = shard.row_offset + shard.row_stride * np.arange(shard.rows)
            values = holder.read(index, 0, shard.rows, state)
            parts[f"{state}_{shard.table}_{shard.column_start}"] = (ids, values)
    return parts


class OfOneModel:
    """The ranks, for one of several models that train at once: its collectives have its name."""

    def __init__(self, cluster, model):
        self._cluster, self._model = cluster, model

    def __getattr__(self, name):
        return getattr(self._cluster, name)

    def alltoall(self, tensor, splits, name):
        return self._cluster.alltoall(tensor, splits, f"{self._model}.{name}")

    def all_reduce_mean(self, tensors, name):
        return self._cluster.all_reduce_mean(tensors, f"{self._model}.{name}")


def build(cluster, kind, compress, dtype, optimizer, gradient):
    """Returns (step, embedding, arrays to save) of one model."""
    from model.dlrm import DenseDLRM, DLRMConfig
    from model.embedding.interface import EmbeddingOptions
    from model.embedding.optimizers import OPTIMIZERS
    from model.embedding.sharded import ShardedEmbedding
    from training.optimizers import SGD
    from training.precision import LossScale
    from training.step import StepParts, TrainStep

    dense_model = DenseDLRM(DLRMConfig(DENSE, len(VOCAB), BOTTOM, TOP, seed=3))
    cluster.broadcast(dense_model.variables)
    embedding = ShardedEmbedding(
        placement_of(kind, cluster.size),
        cluster,
        BATCH // cluster.size,
        EmbeddingOptions(
            seed=3,
            optimizer=OPTIMIZERS[optimizer].with_options(OPTIONS.get(optimizer, {})),
            exchange_dtype=dtype,
            gradient=gradient,
            compress=compress,
        ),
    )
    saved = {}
    for name, (ids, values) in whole_tables(embedding, "table").items():
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


def train(cluster, step, embedding):
    """Trains one model on this rank's share of the batches; returns arrays to save."""
    import tensorflow as tf

    losses = []
    share = slice(cluster.rank * BATCH // cluster.size, (cluster.rank + 1) * BATCH // cluster.size)
    for dense, ids, label in batches():
        batch = {"dense": dense[share], "categorical": ids[share], "label": label[share]}
        batch = {key: tf.constant(value) for key, value in batch.items()}
        losses.append(float(step(batch, RATE)[0]))
    assert step.traces() == 1
    saved = {}
    for state in ("table", "accumulator"):
        for name, (_, values) in whole_tables(embedding, state).items():
            saved[f"final_{name}"] = values
    return {**saved, "losses": np.array(losses)}


def main():
    """Trains all cases, several at once: alone, each would mostly wait for other ranks."""
    folder = pathlib.Path(sys.argv[1])
    cluster = process_group.connect()
    models = {}
    for name, options in cases(cluster.size, sys.argv[2] == "half").items():
        named = OfOneModel(cluster, name)
        models[name] = (named, *build(named, *options, name.rpartition("-")[2]))

    def finish(name):
        named, step, embedding, initial = models[name]
        np.savez(folder / f"{name}.{cluster.rank}.npz", **initial, **train(named, step, embedding))

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(finish, models))
    cluster.shutdown()


if __name__ == "__main__":
    main()
