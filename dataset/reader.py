"""Batches of a described dataset, as a plain tf.data pipeline.

step numbers -> (optional batch-order shuffle) -> parallel map over `Dlrm>ReadSlice` -> prefetch.
A step's files and byte ranges follow from its number alone, so starting at step k does not read
earlier steps, and the order never depends on timing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from dataset.batches import local_batch_size, partition, steps
from dataset.columns import TRANSFORMS, DatasetDescription
from dataset.errors import DatasetError
from dataset.hotness import check_slots
from ops.bags import EMPTY, Bags
from ops.read_slice.read_slice import IdCheck, read_slice

__all__ = ["EpochOrder", "ReadAhead", "batches", "steps", "synthetic_batches"]

#: Distinct batches that `synthetic_batches` cycles through.
SYNTHETIC_BATCHES = 8


@dataclasses.dataclass(frozen=True)
class EpochOrder:
    """The order of an epoch's batches, and the first one to read.

    Attributes:
        start_step: first step of the epoch to read.
        shuffle_seed: if given, shuffles the batches by this seed and `epoch`, equally on all ranks.
        epoch: number of the epoch, for the shuffle.
    """

    start_step: int = 0
    shuffle_seed: int | None = None
    epoch: int = 0


@dataclasses.dataclass(frozen=True)
class ReadAhead:
    """How far the reader works ahead.

    Attributes:
        prefetch: batches kept ready.
        parallel_reads: batches read in parallel.
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
    bags: Bags | None = None,
    drop_remainder: bool = True,
    order: EpochOrder = _IN_ORDER,
    ahead: ReadAhead = _AHEAD,
) -> tf.data.Dataset:
    """Returns one rank's batches of one epoch.

    With B = `global_batch_size`, N = `size`, b = B / N and W slots, the sum of all features'
    hotness (`ops.bags`), each element is a dictionary of fixed shapes:

    * ``label`` float32 [b, 1], 0 or 1
    * ``dense`` float32 [b, 13], transformed
    * ``categorical`` int32 [b, W]: all ids of this rank's samples, with `EMPTY` after the lists of
      variable features; or, with `tables`, [B, slots of those tables]: their ids for the global
      batch, with the samples of rank s from row s*b on (model-parallel input: reads no ids of
      other tables if each table's ids are stored apart)
    * ``valid`` int32 scalar: number of rows that are samples of this rank. It is b, except in the
      last batch with `drop_remainder=False`: its R samples are divided in order, R // N to each
      rank and one more to the first R % N ranks; the remaining rows of each tensor are 0, the slots
      of variable features `EMPTY`.

    A full batch of step s holds samples s*B to s*B + B - 1; those of rank r start at s*B + r*b.
    The pipeline checks that every id is inside its vocabulary, every label is 0 or 1, and every
    dense value is finite; an error names file, sample and value.

    Args:
        description: the split, from `dataset.open_split`.
        global_batch_size: samples per step over all ranks; a multiple of `size`.
        rank: this rank, from 0.
        size: number of ranks.
        tables: indices of the tables to read for the global batch; None to read all tables for
            this rank's slice.
        bags: the slots of all features; default: the split's own. A variable feature may have more
            than this split needs, such as the longest list of train and test
            (`dataset.hotness.of_both`).
        drop_remainder: drop the last partial batch (training) or divide it (evaluation).
        order: order of the batches, and the first step.
        ahead: how far to read ahead.

    Raises:
        DatasetError: the ranks do not divide the batch, the split has fewer samples than one batch,
            its samples do not fit the slots, or a rank, table or start step does not exist.
        ops.loader.LibraryNotBuiltError: the native library is not built.
    """
    local = local_batch_size(global_batch_size, size)
    if not 0 <= rank < size:
        raise DatasetError(f"rank: expected 0 to {size - 1}, found {rank}", found=rank, bound=size)
    total = steps(description.samples, global_batch_size, drop_remainder)
    if total == 0:
        raise DatasetError.of_path(
            description.path,
            f"expected at least one global batch of {global_batch_size} samples, found "
            f"{description.samples}; choose a smaller batch",
            found=description.samples,
            bound=global_batch_size,
        )
    if not 0 <= order.start_step <= total:
        problem = f"expected 0 to {total}, the steps of an epoch, found {order.start_step}"
        raise DatasetError(f"start step: {problem}", found=order.start_step, bound=total)
    if order.shuffle_seed is None:
        numbers = tf.data.Dataset.range(order.start_step, total)
    else:
        random = np.random.Generator(np.random.PCG64([order.shuffle_seed, order.epoch]))
        numbers = tf.data.Dataset.from_tensor_slices(random.permutation(total)[order.start_step :])
    # The shares of all ranks; this rank's share is one row.
    ranks = tf.range(size, dtype=tf.int64)
    if bags is None:
        bags = description.bags
    else:
        check_slots(description.path, description.bags, bags)
    id_columns, picked = _columns_of(description, tables, bags)
    slots = [bags.select(column.tables).slots for column in id_columns]
    stored = [t for column in id_columns for t in column.tables for _ in range(bags.hotness[t])]
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
            slots=slots,
        )
        return ids if picked is None else tf.gather(ids, picked, axis=1)

    def read(step):
        begin = step * global_batch_size
        remaining = tf.minimum(
            tf.constant(description.samples, tf.int64) - begin, global_batch_size
        )
        first, count = partition(remaining, begin, ranks, size, tf.minimum)
        local_row = slice(rank, rank + 1)
        local_share = (first[local_row], count[local_row])
        return {
            "label": read_slice(
                *local_share,
                rows=local,
                columns=[description.label_column],
                dtype=tf.float32,
                check="binary",
            ),
            "dense": read_slice(
                *local_share,
                rows=local,
                columns=[description.dense_column],
                dtype=tf.float32,
                check="finite",
                log_shift=-1.0 if shift is None else shift,
            ),
            "categorical": (
                read_ids(*local_share, local)
                if tables is None
                else read_ids(first, count, global_batch_size)
            ),
            "valid": tf.cast(count[rank], tf.int32),
        }

    # Without AutoGraph, whose conversion would take longer than everything else here.
    read = tf.autograph.experimental.do_not_convert(read)
    dataset = numbers.map(read, num_parallel_calls=ahead.parallel_reads, deterministic=True)
    return dataset.prefetch(ahead.prefetch).with_options(_options(ahead.parallel_reads))


def _columns_of(description, tables, bags):
    """Returns (columns to read, positions of the slots to keep, in order; None to keep all)."""
    if tables is None:
        return description.table_columns, None
    tables = list(tables)
    for table in tables:
        if not 0 <= table < len(description.vocab_sizes):
            bound = len(description.vocab_sizes)
            problem = f"table: expected 0 to {bound - 1}, found {table}"
            raise DatasetError.of_path(description.path, problem, table=table, bound=bound)
    read = [c for c in description.table_columns if not set(tables).isdisjoint(c.tables)]
    have = [table for column in read for table in column.tables]
    if have == tables:
        return read, None
    return read, bags.select(have).slots_of([have.index(table) for table in tables])


def _options(parallel_reads):
    options = tf.data.Options()
    options.deterministic = True
    # Fixed parallelism and private threads: the reader and other work cannot starve each other.
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
    bags: Bags | None = None,
) -> tf.data.Dataset:
    """Returns `steps` random batches from memory, in the format of `batches`.

    Draws min(`steps`, `SYNTHETIC_BATCHES`) global batches once and repeats them, so that the input
    costs nothing. Ids are uniform, labels 0 or 1 with equal probability, dense values log(1 + a
    uniform integer below 1024), and the lists of variable features have 0 to all of their slots. A
    seed gives the same global batches on any number of ranks.

    Args:
        vocab_sizes: rows of each table.
        global_batch_size: samples per step over all ranks; a multiple of `size`.
        rank: this rank.
        size: number of ranks.
        steps: number of batches.
        seed: random seed.
        tables: see `batches`.
        dense_features: dense features per sample.
        bags: the slots of all features; default: one id each.

    Raises:
        DatasetError: the ranks do not divide the batch, `steps` is less than 1, or the slots are of
            another number of features.
    """
    local = local_batch_size(global_batch_size, size)
    if steps < 1:
        raise DatasetError(f"synthetic batches: expected at least 1 step, found {steps}", bound=1)
    bags = Bags.one_hot(len(vocab_sizes)) if bags is None else bags
    if bags.features != len(vocab_sizes):
        what = "synthetic batches: features with slots"
        raise DatasetError.mismatch(None, what, len(vocab_sizes), bags.features)
    local_rows = slice(rank * local, (rank + 1) * local)
    chosen = range(len(vocab_sizes)) if tables is None else tables
    rows = local_rows if tables is None else slice(None)
    drawn_batches = []
    for index in range(min(steps, SYNTHETIC_BATCHES)):
        random = np.random.default_rng([seed, index, 0])
        label = random.integers(0, 2, (global_batch_size, 1)).astype(np.float32)
        dense = random.integers(0, 1024, (global_batch_size, dense_features))
        columns = [np.empty((global_batch_size, 0), np.int32)]
        for table in chosen:
            shape = (global_batch_size, bags.hotness[table])
            column = np.random.default_rng([seed, index, 1 + table])
            drawn = column.integers(0, vocab_sizes[table], shape, np.int32)
            if bags.variable[table]:
                lengths = column.integers(0, shape[1], (global_batch_size, 1), endpoint=True)
                drawn[np.arange(shape[1]) >= lengths] = EMPTY
            columns.append(drawn)
        batch = {
            "label": label[local_rows],
            "dense": np.log1p(dense[local_rows]).astype(np.float32),
            "categorical": np.hstack(columns)[rows],
            "valid": np.int32(local),
        }
        drawn_batches.append(tf.data.Dataset.from_tensors(batch))
    dataset = functools.reduce(tf.data.Dataset.concatenate, drawn_batches)
    return dataset.repeat().take(steps)
