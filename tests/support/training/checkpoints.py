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
    interaction="dot", replicate_below_rows=0, dimension=DIMENSION, bottom=BOTTOM, top=TOP,
    dense_features=DENSE, active=False, **cross,
):  # fmt: skip
    """Writes the checkpoints of some steps into a folder.

    With `active`, every unit is active for dense features that are not negative, far from its
    ReLU's kink. `cross` are options of --interaction=cross: cross_layers, cross_rank.

    Returns:
        ([table [rows, D]], [dense arrays in order]): their values.
    """
    tables = [rng.standard_normal((rows, dimension), np.float32) for rows in vocab_sizes]
    placement = plan(
        vocab_sizes, dimension, ranks, policy=policy, replicate_below_rows=replicate_below_rows,
        optimizer_bytes_per_row=4 * dimension * (optimizer == "adagrad"),
    )  # fmt: skip
    dense = DenseDLRM(
        DLRMConfig(
            dense_features, len(vocab_sizes), bottom, top, interaction=interaction,
            seed=int(rng.integers(1 << 31)), **cross,
        )
    )  # fmt: skip
    # Small positive weights, so that no choice of them makes all units of a layer inactive, or
    # the probability 1.
    for layer in (*dense.bottom.dense_layers, *dense.top.dense_layers):
        layer.kernel.assign((0.01 if active else 0.1) * (1 + np.abs(layer.kernel)))
    if active:
        for layer in (*dense.bottom.dense_layers, *dense.top.dense_layers[:-1]):
            layer.bias.assign(np.full(layer.bias.shape, 2.0))
    sgd = SGD(dense.trainable_variables)
    flags = {
        "embedding_dim": dimension, "bottom_mlp": ",".join(map(str, bottom)),
        "top_mlp": ",".join(map(str, top)), "ablation": "none", "interaction": interaction,
        "global_batch_size": 8, "optimizer": "sgd", "embedding_optimizer": optimizer, "lr": None,
        **cross,
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


def start_active(folder, vocab_sizes, rng):
    """Writes a checkpoint; returns flags of a run that starts from it, with every unit active.

    The learning rates keep the units active over some dozen steps. Near its ReLU's kink, a rounding
    error could switch a unit, which changes all later losses by far more than rounding.
    """
    shape = {"dimension": 8, "bottom": [16, 8], "top": [16, 1], "dense_features": 13}
    write(folder, vocab_sizes, rng, ranks=1, active=True, **shape)
    (written,) = folder.glob("step-*")
    return (
        f"--restore={written}", "--embedding_dim=8", "--bottom_mlp=16,8", "--top_mlp=16,1",
        "--lr=0.02", "--embedding_lr=20",
    )  # fmt: skip
