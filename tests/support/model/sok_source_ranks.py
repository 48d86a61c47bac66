"""Trains with SOK 2.x's own Python on the ranks of Horovod, with only its CUDA ops replaced.

tests/ranks/model/test_sok_source.py runs it as `sok_source_ranks SEED` if DLRM_SOK_SOURCE is the
folder of SOK's source. Variables, routing, exchange through Horovod and gradients are SOK's code;
its CUDA ops (select, reorder, the parts of `lookup_sparse`) are TensorFlow's, so no GPU is needed.
"""

import os
import sys
import types

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import load_library

from model.embedding import backend
from model.embedding.interface import EmbeddingOptions, update
from tests.support.model import sok_rows
from tests.support.model.placements import placement_of
from tests.support.row_optimizers import ReferenceRows, exact_gradients
from training.runtime.process_group import HorovodProcessGroup

STEPS, RATE = 4, 0.3


def dist_select(indices, num_splits):
    owner = tf.cast(indices % num_splits, tf.int32)
    order = tf.argsort(owner, stable=True)
    splits = tf.math.bincount(owner, minlength=num_splits, maxlength=num_splits)
    return tf.gather(indices, order), order, splits


def reorder(embedding, order):
    return tf.gather(embedding, tf.math.invert_permutation(order))


def preprocessing_forward(keys, row_lengths, **_):
    return tf.concat(keys, 0), tf.concat(row_lengths, 0), tf.zeros([0])


def lookup_forward(handles, keys, row_lengths, hotness, weights, *, num_gpus, shard, rank, **_):
    keys = tf.reshape(keys, [num_gpus, len(handles), -1])
    buffers = []
    for source in range(num_gpus):
        found = []
        for table, handle in enumerate(handles):
            asked = keys[source, table] if shard[table] == rank else keys[source, table, :0]
            rows = tf.raw_ops.ResourceGather(resource=handle, indices=asked, dtype=tf.float32)
            found.append(tf.reshape(rows, [-1]))
        buffers.append(tf.concat(found, 0))
    return buffers, None, None, None


def postprocessing_forward(buffers, row_lengths, hotness, weights, *, shard, dimensions, **_):
    found, used = [], [0] * len(buffers)
    for target, width, lengths in zip(shard, dimensions, row_lengths):
        end = used[target] + tf.size(lengths) * width
        found.append(tf.reshape(buffers[target][used[target] : end], [-1, width]))
        used[target] = end
    return found, None


def replace_native_libraries():
    ops = types.SimpleNamespace(
        dist_select=dist_select,
        reorder=reorder,
        preprocessing_forward=preprocessing_forward,
        hotness_calculate=lambda lengths, **_: tf.zeros([1], tf.int32),
        lookup_forward=lookup_forward,
        postprocessing_forward=postprocessing_forward,
    )
    load_library.load_op_library = lambda path: ops
    exists = os.path.exists
    os.path.exists = lambda path: "libsparse_operation_kit" in str(path) or exists(path)


def train(choice, cluster, kind, compress, optimizer, seed):
    """Trains a few steps in one traced function; checks vectors and rows against float64."""
    size, rng = cluster.size, np.random.default_rng(seed)
    vocab, batch = sok_rows.VOCAB, sok_rows.LOCAL_BATCH
    ids = sok_rows.power_law_ids(rng, STEPS, size, batch)
    gradients = exact_gradients(rng, (*ids.shape, sok_rows.DIMENSION))
    embedding = backend.build(
        choice,
        placement_of(kind, size, vocab, sok_rows.DIMENSION),
        cluster,
        batch,
        EmbeddingOptions(seed=seed, compress=compress, optimizer=optimizer),
    )

    @tf.function
    def step(categorical, gradient):
        plan = embedding.plan_ids(categorical)
        rows = embedding.lookup_local(plan)
        vectors = embedding.exchange_vectors(plan, rows)
        update(embedding, plan, gradient, tf.constant(RATE), rows)
        return vectors

    tables = [ReferenceRows(optimizer, table) for table in sok_rows.initial_tables(seed)]
    for s in range(STEPS):
        local = tf.constant(ids[s, cluster.rank]), tf.constant(gradients[s, cluster.rank])
        vectors = step(*local).numpy()
        for t, table in enumerate(tables):
            expected = table.rows[ids[s, cluster.rank, :, t]]
            np.testing.assert_allclose(vectors[:, t], expected, rtol=2e-5, atol=2e-6)
            table.scatter(ids[s, :, :, t], gradients[s, :, :, t], RATE, 1 / size)
    for (t, i), row in sok_rows.held_rows(embedding).items():
        np.testing.assert_allclose(row, tables[t].rows[i], rtol=2e-5, atol=2e-6)
    print(f"rank {cluster.rank} of {size}: {kind}, compress {compress}, {optimizer}: equal")


def main():
    hvd.init()
    cluster = HorovodProcessGroup(hvd)
    replace_native_libraries()
    sys.path.insert(0, os.environ["DLRM_SOK_SOURCE"])
    keras_optimizers = tf.keras.optimizers
    choice = backend.choose("sok", gpus=1)
    for kind, compress in (("row", False), ("row", True), ("table", False), ("mixed", False)):
        for optimizer in ("sgd", "adagrad"):
            train(choice, cluster, kind, compress, optimizer, int(sys.argv[1]))
    assert tf.keras.optimizers is keras_optimizers, "SOK replaced Keras' optimizers"
    print(f"SOK {choice.version} on {cluster.size} ranks: all equal")


if __name__ == "__main__":
    main()
