"""A small DLRM on one rank and batches for it, for tests of the training step."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from model.dlrm import DenseDLRM, DLRMConfig
from model.embedding.interface import EmbeddingOptions
from model.embedding.placement import plan
from model.embedding.sharded import ShardedEmbedding
from training.dense_phases import GpuKernels
from training.optimizers import OPTIMIZERS
from training.precision import LossScale
from training.runtime.process_group import SingleProcessGroup
from training.step import StepParts, TrainStep

VOCAB, DIMENSION, DENSE, BATCH = (50, 3, 400), 8, 5, 64


class Sizes(NamedTuple):
    """The sizes of a model and its batches."""

    vocab: tuple[int, ...] = VOCAB
    dense: int = DENSE
    bottom: tuple[int, ...] = (16, DIMENSION)
    top: tuple[int, ...] = (16, 1)
    batch: int = BATCH


SMALL = Sizes()
#: The model that main.py trains by default, with small tables and batches.
MAIN = Sizes((10,) * 26, 13, (512, 256, 128), (1024, 1024, 512, 256, 1), 64)


def build(
    seed, *, scale=None, optimizer="sgd", embedding_optimizer="sgd", dtype="float32",
    policy="table", compress=False, overlap=True, device=None, cluster=None,
    replicate_below_rows=0, model_parallel_input=False, kernels=None, sizes=SMALL,
    deterministic=False, embedding_rate=1.0, side_stream=False, bags=None, **dense_options,
):  # fmt: skip
    """Returns (model, embedding, optimizer, step).

    `kernels` are the `GpuKernels` of the step, default: none; `device` may be the CPU.
    """
    config = DLRMConfig(
        sizes.dense, len(sizes.vocab), sizes.bottom, sizes.top, seed=seed, compute_dtype=dtype,
        **dense_options,
    )  # fmt: skip
    model = DenseDLRM(config)
    optimizer = OPTIMIZERS[optimizer](model.trainable_variables)
    cluster = cluster or SingleProcessGroup()
    embedding = ShardedEmbedding(
        plan(
            sizes.vocab, sizes.bottom[-1], cluster.size, policy=policy,
            replicate_below_rows=replicate_below_rows,
        ),
        cluster,
        sizes.batch,
        EmbeddingOptions(
            seed=seed, compress=compress, optimizer=embedding_optimizer, exchange_dtype=dtype,
            model_parallel_input=model_parallel_input, deterministic=deterministic,
            side_stream=side_stream, bags=bags,
        ),
    )  # fmt: skip
    step = TrainStep(
        StepParts(
            model, embedding.for_training(), optimizer, cluster, scale or LossScale(1.0),
            embedding_rate=embedding_rate, kernels=kernels or GpuKernels(),
        ),
        overlap=overlap, device=device,
    )  # fmt: skip
    return model, embedding, optimizer, step


def batches(count, rng, sizes=SMALL):
    """Returns batches whose labels depend on ids and dense features, so that a model can learn."""
    made = []
    for _ in range(count):
        ids = np.stack(
            [np.minimum(rng.zipf(1.3, sizes.batch) - 1, rows - 1) for rows in sizes.vocab], axis=1
        ).astype(np.int32)
        dense = rng.normal(size=(sizes.batch, sizes.dense)).astype(np.float32)
        logit = dense.sum(1) + (ids % 2).sum(1) - 1
        label = (rng.random(sizes.batch) < 1 / (1 + np.exp(-logit))).astype(np.float32)
        made.append(
            {"dense": tf.constant(dense), "categorical": tf.constant(ids),
             "label": tf.constant(label[:, None])}
        )  # fmt: skip
    return made


def state(model, embedding, optimizer):
    """Returns copies of all values that training changes, as NumPy arrays."""
    variables = [*model.trainable_variables, *optimizer.variables]
    for holder in embedding.fused_tables:
        variables += holder.states.values()
    return [v.numpy().copy() for v in variables]


def train(step, made, rate=0.1):
    """Runs a step for each batch; returns the losses."""
    following = [*made[1:], None]
    return [float(step(batch, rate, after)[0]) for batch, after in zip(made, following)]
