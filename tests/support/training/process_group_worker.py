"""One rank that runs every collective of its process group and saves the results.

Usage under horovodrun: python -m tests.support.training.process_group_worker SEED FOLDER
"""

import pathlib
import sys

import numpy as np

WIDTH = 3


def inputs(seed, rank, size):
    """Returns the inputs of a rank, as NumPy arrays: {name: values}."""
    rng = np.random.default_rng([seed, rank])
    # A rank may have no rows for itself or for others.
    splits = rng.integers(0, 4, size)
    splits[(rank + 1) % size] = rank
    return {
        "splits": splits.astype(np.int32),
        "rows": rng.normal(size=(splits.sum(), WIDTH)).astype(np.float32),
        "means": rng.normal(size=(4, 5)).astype(np.float32),
        "integers": rng.integers(-(2**60), 2**60, 7),
        "floats": rng.normal(size=(2, 2)),
        "value": rng.normal(),
        "bytes": rng.integers(0, 256, splits.sum(), np.uint8),
    }


def main(seed, folder):
    import tensorflow as tf

    from training.runtime import process_group

    group = process_group.connect()
    local = inputs(seed, group.rank, group.size)
    rows, splits = tf.constant(local["rows"]), tf.constant(local["splits"])
    found = {}

    # The results are unused on purpose: a graph must not prune the exchange on one rank alone.
    @tf.function
    def exchange_without_result(rows):
        group.alltoall(rows, splits, "unused")

    for dtype in ("float32", "bfloat16"):
        received, counts = group.alltoall(tf.cast(rows, dtype), splits, f"rows_{dtype}")
        found[f"rows_{dtype}"] = tf.cast(received, tf.float32).numpy()
        assert received.dtype == dtype
        found["counts"] = counts.numpy()
    exchange_without_result(rows)
    tensors = [tf.constant(local["means"]), tf.constant(local["means"][0])]
    for index, mean in enumerate(group.all_reduce_mean(tensors, "means")):
        found[f"mean_{index}"] = mean.numpy()
    for name in ("integers", "floats"):
        found[name] = group.all_reduce_sum(local[name])
    found["gather"] = group.gather(local["value"])
    parts = np.split(local["bytes"], np.cumsum(local["splits"])[:-1])
    found["alltoallv"] = group.alltoallv(parts)
    variable = tf.Variable(local["means"])
    group.broadcast([variable])
    found["broadcast"] = variable.numpy()
    place = (group.rank, group.size, group.local_rank, group.local_size)
    np.savez(folder / f"rank_{group.rank}.npz", place=place, **found)
    group.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), pathlib.Path(sys.argv[2]))
