"""Writes small checkpoints of random values, with threads as ranks."""

import numpy as np

from model.dlrm import DenseDLRM, DLRMConfig
from model.embedding.interface import EmbeddingOptions
from model.embedding.placement import plan
from model.embedding.sharded import ShardedEmbedding
from tests.support.thread_ranks import ThreadRanks
from training.checkpoint.saver import Saver
from training.checkpoint.state import State
from training.optimizers import SGD
from training.precision import LossScale
from training.telemetry.journal import Journal

DATA = {"layout": "synthetic", "effective_transform": "log(x+1)"}
DIMENSION, BOTTOM, TOP, DENSE = 4, [4], [3, 1], 5


def write(
    folder, vocab_sizes, rng, *, ranks, policy="row", optimizer="sgd", steps=(7,),
    interaction="dot", replicate_below_rows=0,
):  # fmt: skip
    """Writes the checkpoints of some steps into a folder.

    Returns:
        ([table [rows, D]], [dense arrays in order]): their values.
    """
    tables = [rng.standard_normal((rows, DIMENSION), np.float32) for rows in vocab_sizes]
    placement = plan(
        vocab_sizes, DIMENSION, ranks, policy=policy, replicate_below_rows=replicate_below_rows,
        optimizer_bytes_per_row=4 * DIMENSION * (optimizer == "adagrad"),
    )  # fmt: skip
    dense = DenseDLRM(
        DLRMConfig(
            DENSE, len(vocab_sizes), BOTTOM, TOP, interaction=interaction,
            seed=int(rng.integers(1 << 31)),
        )
    )  # fmt: skip
    # Small positive weights, so that no choice of them makes all units of a layer inactive, or
    # the probability 1.
    for layer in (*dense.bottom.dense_layers, *dense.top.dense_layers):
        layer.kernel.assign(0.1 + 0.1 * np.abs(layer.kernel))
    sgd = SGD(dense.trainable_variables)
    flags = {
        "embedding_dim": DIMENSION, "bottom_mlp": "4", "top_mlp": "3,1", "ablation": "none",
        "interaction": interaction,
        "global_batch_size": 8, "optimizer": "sgd", "embedding_optimizer": optimizer, "lr": None,
    }  # fmt: skip
    facts = {"flags": flags, "data": DATA, "versions": {"numpy": "x"}}

    def body(cluster):
        embedding = ShardedEmbedding(
            placement, cluster, 8 // ranks, EmbeddingOptions(seed=1, optimizer=optimizer)
        )
        fused = embedding.stored_tables().tracked
        for index, shard in enumerate(fused.shards):
            ids = shard.row_offset + shard.row_stride * np.arange(shard.rows)
            columns = slice(shard.column_start, shard.column_end)
            fused.write(index, 0, tables[shard.table][ids][:, columns])
        state = State(dense, sgd, LossScale(1.0), embedding, cluster)
        saver = Saver(
            folder, cluster, state, facts, keep=9, interval=None, timeout=30, journal=Journal()
        )
        for step in steps:
            evaluation = {"step": step, "auc": 0.625, "log_loss": 0.5, "samples": 40, "seconds": 1}
            saver.begin(step, 0, [evaluation])
            saver.finish()

    ThreadRanks(ranks).run(body)
    return tables, [variable.numpy() for variable in dense.variables]
