"""Restores a checkpoint and saves every value of the job as a NumPy archive.

Usage: python -m tests.support.training.checkpoint.restored_values CHECKPOINT OPTIMIZER VALUES.npz

Another environment's Python runs it too, so it imports no test.
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf

from model.dlrm import DenseDLRM, DLRMConfig
from model.embedding.interface import EmbeddingOptions
from model.embedding.placement import plan
from model.embedding.sharded import ShardedEmbedding
from planner.arguments import read_widths
from training.checkpoint import manifest, restore
from training.checkpoint.reader import Reader
from training.checkpoint.state import State
from training.optimizers import OPTIMIZERS
from training.precision import LossScale
from training.runtime.process_group import SingleProcessGroup


def main(folder, optimizer, target):
    """Saves {file name in the checkpoint: values}, and the version of TensorFlow."""
    reader = Reader(folder, manifest.read(folder)[0])
    found = reader.manifest
    widths = [read_widths(name, found["flags"][name]) for name in ("bottom_mlp", "top_mlp")]
    model = DenseDLRM(
        DLRMConfig(manifest.dense_features(found), len(found["vocab_sizes"]), *widths, seed=99)
    )
    cluster = SingleProcessGroup()
    placement = plan(found["vocab_sizes"], found["embedding_dim"], 1)
    embedding = ShardedEmbedding(placement, cluster, 8, EmbeddingOptions(seed=99))
    made = OPTIMIZERS[optimizer](model.trainable_variables)
    state = State(model, made, LossScale(1.0), embedding, cluster)
    restore.load(reader, state, training=True)
    values = {
        f"{group}.{name}": variable.numpy()
        for group in ("dense", "optimizer")
        for name, variable in state.named[group].items()
    }
    for stored in state.tables.all:
        name = f"table_{stored.shard.table:02d}.rank_0"
        values[name] = stored.read(0, stored.shape[0])
    np.savez(target, tensorflow=np.array(tf.__version__), **values)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *sys.argv[2:])
