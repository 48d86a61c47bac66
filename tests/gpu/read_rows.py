"""Checks that TensorFlow reads rows of large tables from the right addresses, as checkpoints do.

    python3 -m tests.gpu.read_rows [--vocabulary mlperf] [--samples 2000] [--seed N]

Needs TensorFlow and this project's ops; no PyTorch. Creates the tables of a vocabulary (mlperf:
89.5 GiB), initialises them, and reads random rows and the last ones of each table. The exit code is
0 only if all equal the documented initial values. It runs on a GPU if TensorFlow sees one.
"""

import argparse
import secrets
import sys

import numpy as np

from planner.published_runs import VOCABULARIES
from tests.gpu import reference

DIM = 128
# With int32 offsets a GPU would read from wrong addresses from here on.
FIRST_BEYOND_INT32 = 2**31 // 32
ROWS_AT_ONCE = 64


def check(vocab_sizes, samples, seed, dimension=DIM):
    """Returns (rows read, rows that differ) for tables of `vocab_sizes` on one rank."""
    from model.embedding.placement import plan
    from model.embedding.tables import FusedTables

    rng = np.random.default_rng(seed)
    placement = plan(vocab_sizes, dimension, 1)
    shards = list(placement.shards_of(0))
    first = [shard.base_row for shard in shards]
    fused = FusedTables(placement, shards, first, placement.rows_of(0), dimension, seed=seed)
    read = wrong = 0
    for index, shard in enumerate(shards):
        count = min(shard.rows, ROWS_AT_ONCE)
        share = max(1, samples * shard.rows // (count * placement.rows_of(0)))
        begins = rng.integers(0, shard.rows - count + 1, share)
        for begin in {0, shard.rows - count, *begins.tolist()}:
            found = fused.read(index, begin, count)
            expected = reference.initial_rows(
                np.arange(begin, begin + count), dimension, shard.table, seed,
                (1.0 / shard.rows) ** 0.5,
            )  # fmt: skip
            read += count
            wrong += int((found != expected).any(axis=1).sum())
    return read, wrong


def main(arguments=None):
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", choices=sorted(VOCABULARIES), default="mlperf")
    parser.add_argument("--samples", type=int, default=2000, help="random rows to read")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    options = parser.parse_args(arguments)
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    sizes = VOCABULARIES[options.vocabulary]
    read, wrong = check(sizes, options.samples, options.seed)
    place = "a GPU" if gpus else "the CPU"
    print(
        f"read_rows: on {place}, {sum(sizes):,} rows of {DIM} (int32 offsets end at row "
        f"{FIRST_BEYOND_INT32:,}), seed {options.seed}: read {read:,} rows, {wrong:,} differ"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
