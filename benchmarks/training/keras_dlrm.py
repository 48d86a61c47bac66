"""The Keras peer: DLRM from Keras layers, as a TensorFlow user would write it.

Runs with Keras 2 and 3, whichever `tf.keras` is.

    python3 -m benchmarks.training.keras_dlrm SOCKET TASK

One `tf.keras.layers.Embedding` per table, `Dense` layers, a batched product and a gather for the
interaction (or a cross network of `Dense` layers), plain SGD, the complete step in one
`tf.function`. Gradients of tables are sparse (`tf.IndexedSlices`). The batches are in memory.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from benchmarks.training import worker_protocol
from benchmarks.training.batches import random_batches
from benchmarks.training.task import DENSE_FEATURES, Task

if TYPE_CHECKING:
    import tensorflow as tf


def make_model(task: Task) -> tf.keras.Model:
    """Returns a Keras model of (dense [B, 13], ids [B, W]) -> float32 logits [B, 1].

    Layers are named bottom_0, ..., table_0, ..., top_0, .... The rows of top_0's kernel are
    [bottom output, pairs i > j row-major]. With a cross network, its layers are down_0, up_0, ....
    """
    import numpy as np
    import tensorflow as tf

    layers = tf.keras.layers
    if task.precision == "bf16":
        tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    tables, width = len(task.vocab_sizes), task.dimension
    dense = tf.keras.Input([DENSE_FEATURES])
    ids = tf.keras.Input([sum(task.ids)], dtype=tf.int32)
    bottom = dense
    for place, size in enumerate(task.bottom_mlp):
        bottom = layers.Dense(size, activation="relu", name=f"bottom_{place}")(bottom)
    vectors = []
    for table, rows in enumerate(task.vocab_sizes):
        bound = math.sqrt(1 / rows)
        start = tf.keras.initializers.RandomUniform(-bound, bound, seed=task.seed + table)
        lookup = layers.Embedding(rows, width, embeddings_initializer=start, name=f"table_{table}")
        first, count = sum(task.ids[:table]), task.ids[table]
        if count == 1:
            vectors.append(lookup(ids[:, first]))
        else:
            pool = layers.Lambda(lambda found: tf.reduce_sum(found, axis=1), output_shape=(width,))
            vectors.append(pool(lookup(ids[:, first : first + count])))
    i, j = np.tril_indices(tables + 1, k=-1)

    # Keras 3 allows TensorFlow ops only inside a layer.
    class Interaction(layers.Layer):
        def call(self, vectors):
            features = tf.stack(vectors, axis=1)
            products = tf.matmul(features, features, transpose_b=True)
            flat = tf.reshape(products, [-1, (tables + 1) ** 2])
            pairs = tf.gather(flat, i * (tables + 1) + j, axis=1)
            return tf.concat([vectors[0], pairs], axis=1)

    if task.cross_layers:
        start = top = layers.Concatenate()([bottom, *vectors])
        for place in range(task.cross_layers):
            down = layers.Dense(task.cross_rank, use_bias=False, name=f"down_{place}")(top)
            up = layers.Dense(task.interacted, name=f"up_{place}")(down)
            top = layers.Add()([layers.Multiply()([start, up]), top])
    else:
        top = Interaction(name="interaction")([bottom, *vectors])
    for place, size in enumerate(task.top_mlp):
        activation = "relu" if place < len(task.top_mlp) - 1 else None
        top = layers.Dense(size, activation=activation, name=f"top_{place}")(top)
    logits = layers.Activation("linear", dtype="float32")(top)
    return tf.keras.Model([dense, ids], logits)


def make_step(model: tf.keras.Model, learning_rate: float) -> Callable[..., tf.Tensor]:
    """Returns a `tf.function` (dense, ids, label) -> loss that trains on one batch."""
    import tensorflow as tf

    # Keras 2's newer SGD sums the gradients of repeated ids first. Its legacy SGD and Keras 3's SGD
    # apply them one by one.
    keras_2 = importlib.metadata.version("keras").startswith("2.")
    optimizers = tf.keras.optimizers.legacy if keras_2 else tf.keras.optimizers
    optimizer = optimizers.SGD(learning_rate)
    loss_of = tf.keras.losses.BinaryCrossentropy(from_logits=True)

    @tf.function
    def step(dense, ids, label):
        with tf.GradientTape() as tape:
            loss = loss_of(label, model([dense, ids], training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        # Missing from TensorFlow's stubs.
        apply = optimizer.apply_gradients  # pyright: ignore[reportAttributeAccessIssue]
        apply(zip(gradients, model.trainable_variables))
        return loss

    return step


def main() -> None:
    """Serves the benchmark."""
    import os

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    address, task = sys.argv[1], Task.read(sys.argv[2])
    step = make_step(make_model(task), task.learning_rate)
    held: dict[int, Iterator[list[tf.Tensor]]] = {}
    last: list[tf.Tensor] = [tf.constant(0.0)]

    def train(batch: int, steps: int) -> dict[str, Any]:
        if batch not in held:
            arrays = random_batches(task, batch)
            held[batch] = itertools.cycle([[tf.constant(a) for a in some] for some in arrays])

        def one() -> None:
            last[0] = step(*next(held[batch]))

        done = worker_protocol.burst(one, lambda: last[0].numpy(), steps)
        return {**done, "loss": float(last[0])}

    versions = {"tensorflow": tf.__version__, "keras": importlib.metadata.version("keras")}
    worker_protocol.serve(address, {"train": train}, rank=0, versions=versions)


if __name__ == "__main__":
    main()
