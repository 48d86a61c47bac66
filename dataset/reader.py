"""Batches of a described dataset, as a plain tf.data pipeline.

step numbers -> (optional batch-order shuffle) -> parallel map over `Dlrm>ReadSlice` -> prefetch.
A step's files and byte ranges follow from its number alone, so starting at step k reads nothing
of what came before, and the order never depends on timing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from dataset.batches import dealt, local_batch_size, steps
from dataset.columns import TRANSFORMS, DatasetDescription
from dataset.errors import DatasetError
from ops.read_slice.read_slice import IdCheck, read_slice

__all__ = ["EpochOrder", "ReadAhead", "batches", "steps", "synthetic_batches"]

#: Distinct batches that `synthetic_batches` cycles through.
SYNTHETIC_BATCHES = 8


@dataclasses.dataclass(frozen=True)
class EpochOrder:
    """Which batches of an epoch come, and in which order.

    Attributes:
        start_step: step of the epoch to begin with.
        shuffle_seed: where given, batches come in an order drawn from it and `epoch`, the same on
            every rank.
        epoch: number of the epoch, for the shuffle.
    """

    start_step: int = 0
    shuffle_seed: int | None = None
    epoch: int = 0


@dataclasses.dataclass(frozen=True)
class ReadAhead:
    """How many batches are read before they are asked for.

    Attributes:
        prefetch: batches kept ready.
        parallel_reads: batches read at a time.
    """

    prefetch: int = 4
    parallel_reads: int = 2


_IN_ORDER, _AHEAD = EpochOrder(), ReadAhead()


def batches(
    description: DatasetDescription,
    global_batch_size: int,
    rank: int = 0,
    size: int = 1,
    *,
    tables: Sequence[int] | None = None,
    drop_remainder: bool = True,
    order: EpochOrder = _IN_ORDER,
    ahead: ReadAhead = _AHEAD,
) -> tf.data.Dataset:
    """Returns one epoch of batches of one rank.

    With B = `global_batch_size`, N = `size`, b = B / N and T tables, each element is a dictionary
    of fixed shapes:

    * ``label`` float32 [b, 1], 0 or 1
    * ``dense`` float32 [b, 13], transformed
    * ``categorical`` int32 [b, T]: all ids of this rank's samples; or, with `tables`,
      [B, len(tables)]: the ids of those tables for the global batch, rank s's samples in rows
      s*b and on (model-parallel input: reads only those tables' files where they have their own)
    * ``valid`` int32 scalar: how many of this rank's rows are samples. It is b but in the last
      batch of `drop_remainder=False`, whose R samples are dealt in order, R // N to each rank and
      one more to the first R % N; rows after a rank's samples are 0 in every tensor.

    A full batch of step s holds samples s*B to s*B + B - 1, rank r's being s*B + r*b and on.
    Every id is checked against its vocabulary, every label to be 0 or 1, every dense value to be
    finite; a violation names file, sample and value.

    Args:
        description: the split, from `dataset.open_split`.
        global_batch_size: samples of one step over all ranks; the ranks must divide it.
        rank: this rank, from 0.
        size: number of ranks.
        tables: indices of the tables to read at the global batch; None for all of the slice.
        drop_remainder: leave the last partial batch out (training) or deal it (evaluation).
        order: which batches of the epoch come, and in which order.
        ahead: how many are read before they are asked for.

    Raises:
        DatasetError: the batch does not fit the ranks, holds more samples than there are, or a
            table does not exist.
        ops.loader.LibraryNotBuiltError: the native library is not built.
    """
    local = local_batch_size(global_batch_size, size)
    if not 0 <= rank < size:
        raise DatasetError(f"rank {rank}: expected 0 to {size - 1}")
    total = steps(description.samples, global_batch_size, drop_remainder)
    if total == 0:
        raise DatasetError(
            f"{description.path}: holds {description.samples} samples, fewer than one global "
            f"batch of {global_batch_size}: choose a smaller batch"
        )
    if not 0 <= order.start_step <= total:
        raise DatasetError(
            f"start step {order.start_step}: expected 0 to {total}, an epoch's steps"
        )
    if order.shuffle_seed is None:
        numbers = tf.data.Dataset.range(order.start_step, total)
    else:
        random = np.random.Generator(np.random.PCG64([order.shuffle_seed, order.epoch]))
        numbers = tf.data.Dataset.from_tensor_slices(random.permutation(total)[order.start_step :])
    # All ranks' shares at once; this rank's own is one row of them.
    ranks = tf.range(size, dtype=tf.int64)
    id_columns, picked = _columns_of(description, tables)
    stored = [table for column in id_columns for table in column.tables]
    bounds = [description.vocab_sizes[table] for table in stored]
    shift = TRANSFORMS[description.dense_transform]

    def read_ids(first, count, rows):
        if not id_columns:
            return tf.zeros([rows, 0], tf.int32)
        ids = read_slice(
            first,
            count,
            rows=rows,
            columns=id_columns,
            dtype=tf.int32,
            check=IdCheck(bounds, stored),
        )
        return ids if picked is None else tf.gather(ids, picked, axis=1)

    def read(step):
        begin = step * global_batch_size
        remaining = tf.minimum(
            tf.constant(description.samples, tf.int64) - begin, global_batch_size
        )
        first, count = dealt(remaining, begin, ranks, size, tf.minimum)
        mine = slice(rank, rank + 1)
        own = (first[mine], count[mine])
        return {
            "label": read_slice(
                *own,
                rows=local,
                columns=[description.label_column],
                dtype=tf.float32,
                check="binary",
            ),
            "dense": read_slice(
                *own,
                rows=local,
                columns=[description.dense_column],
                dtype=tf.float32,
                check="finite",
                log_shift=-1.0 if shift is None else shift,
            ),
            "categorical": (
                read_ids(*own, local)
                if tables is None
                else read_ids(first, count, global_batch_size)
            ),
            "valid": tf.cast(count[rank], tf.int32),
        }

    # Left as it is by AutoGraph, whose rewriting takes longer than all else here.
    read = tf.autograph.experimental.do_not_convert(read)
    dataset = numbers.map(read, num_parallel_calls=ahead.parallel_reads, deterministic=True)
    return dataset.prefetch(ahead.prefetch).with_options(_options(ahead.parallel_reads))


def _columns_of(description, tables):
    """Returns (columns to read, which of their ids to keep in which order or None for all)."""
    if tables is None:
        return description.table_columns, None
    tables = list(tables)
    for table in tables:
        if not 0 <= table < len(description.vocab_sizes):
            raise DatasetError(
                f"table {table}: {description.path} has tables 0 to "
                f"{len(description.vocab_sizes) - 1}"
            )
    read = [c for c in description.table_columns if not set(tables).isdisjoint(c.tables)]
    have = [table for column in read for table in column.tables]
    return read, None if have == tables else [have.index(table) for table in tables]


def _options(parallel_reads):
    options = tf.data.Options()
    options.deterministic = True
    # Fixed parallelism and threads of its own: nothing else can starve the reader, nor it others.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = parallel_reads + 1
    return options


def synthetic_batches(
    vocab_sizes: Sequence[int],
    global_batch_size: int,
    rank: int,
    size: int,
    steps: int,
    seed: int,
    tables: Sequence[int] | None = None,
    dense_features: int = 13,
) -> tf.data.Dataset:
    """Returns `steps` random batches held in memory, in the form of `batches`.

    `SYNTHETIC_BATCHES` distinct global batches (fewer where `steps` is less) are drawn once from
    `seed` and repeated in turn, so that the input costs nothing. Ids are uniform, labels fair
    coins, dense values log(1 + a uniform integer below 1024). A given seed means the same global
    batches on any number of ranks.

    Args:
        vocab_sizes: rows of each table.
        global_batch_size: samples of one step over all ranks.
        rank: this rank.
        size: number of ranks.
        steps: how many batches.
        seed: seed of the draw.
        tables: as in `batches`.
        dense_features: dense features per sample.

    Raises:
        DatasetError: the ranks do not divide the batch.
    """
    local = local_batch_size(global_batch_size, size)
    if steps < 1:
        raise DatasetError(f"synthetic batches: expected at least 1 step, found {steps}")
    mine = slice(rank * local, (rank + 1) * local)
    chosen = range(len(vocab_sizes)) if tables is None else tables
    rows = mine if tables is None else slice(None)
    drawn_batches = []
    for index in range(min(steps, SYNTHETIC_BATCHES)):
        random = np.random.default_rng([seed, index, 0])
        label = random.integers(0, 2, (global_batch_size, 1)).astype(np.float32)
        dense = random.integers(0, 1024, (global_batch_size, dense_features))
        ids = np.empty((local if tables is None else global_batch_size, len(chosen)), np.int32)
        for position, table in enumerate(chosen):
            column = np.random.default_rng([seed, index, 1 + table])
            drawn = column.integers(0, vocab_sizes[table], global_batch_size, np.int32)
            ids[:, position] = drawn[rows]
        batch = {
            "label": label[mine],
            "dense": np.log1p(dense[mine]).astype(np.float32),
            "categorical": ids,
            "valid": np.int32(local),
        }
        drawn_batches.append(tf.data.Dataset.from_tensors(batch))
    dataset = functools.reduce(tf.data.Dataset.concatenate, drawn_batches)
    return dataset.repeat().take(steps)
