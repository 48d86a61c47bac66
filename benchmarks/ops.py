"""Times the custom ops and compares them with the machine's limits and with TensorFlow's ops.

    python3 -m benchmarks.ops [--json FILE] [--rounds N] [--table_bytes N] [--only OPS]

Prints one row per op and case. Every round times limit, op and TensorFlow one after another, so
that other load on the machine affects all of them. Times are medians over the rounds, ratios are
medians of the ratios of each round. The limits of an interaction are its bytes at the measured copy
bandwidth, and its products at the measured rate of TensorFlow's matrix product; the limit of an MLP
is the latter; the limit of a lookup or update is the measured rate of random rows in the same
table, one for each id. Ratios are given for wall-clock time and for processor time, which other
programs affect less.
"""

import argparse
import dataclasses
import itertools
import os

import numpy as np
import tensorflow as tf

from benchmarks import machine, results_file
from benchmarks.mlp import mlp_rows
from benchmarks.timing import Limit, compare, timed
from model.embedding.optimizers import OPTIMIZERS
from ops.bags import Bags
from ops.cpu import instruction_set
from ops.dot_interaction import dot_interaction, dot_interaction_tensorflow, output_width
from ops.embedding import (
    RowIds,
    RowRule,
    create_table,
    embedding_initialize,
    embedding_lookup,
    embedding_lookup_tensorflow,
    embedding_update,
    embedding_update_tensorflow,
)
from planner.published_runs import VOCABULARIES
from storage.arguments import first_paragraph, whole_number
from training.runtime import environment

BATCH, TABLES, DIMENSION = 8192, 26, 128
# Ids of a sample for each table, and tables: a few hundred thousand ids or more per batch.
POOLED = ((1, 26), (8, 26), (100, 4))
# Capped to the table.
VOCABULARY = VOCABULARIES["mlperf"]


def interaction_rows(dtype, copy, rounds):
    """Yields the rows of the dot interaction for one type: forward, and forward + backward."""
    width = output_width(TABLES + 1, DIMENSION)
    features = (TABLES + 1) * DIMENSION
    pair_flops = BATCH * TABLES * (TABLES + 1) // 2 * DIMENSION * 2
    bottom = tf.cast(tf.random.normal([BATCH, DIMENSION]), dtype)
    vectors = tf.cast(tf.random.normal([BATCH, TABLES, DIMENSION]), dtype)
    gradient = tf.cast(tf.random.normal([BATCH, width]), dtype)
    square = tf.cast(tf.random.normal([1024, 1024]), dtype)

    def forward(interaction, compiled=False):
        run = tf.function(interaction, jit_compile=compiled)
        return lambda: run(bottom, vectors)

    def forward_and_backward(interaction, compiled=False):
        @tf.function(jit_compile=compiled)
        def run(bottom, vectors, gradient):
            with tf.GradientTape() as tape:
                tape.watch([bottom, vectors])
                interactions = interaction(bottom, vectors)
            return interactions, *tape.gradient(interactions, [bottom, vectors], gradient)

        return lambda: run(bottom, vectors, gradient)

    # Bytes: forward reads the features and writes the output; backward reads the features and the
    # output's gradient and writes the features' gradient. Products: one set forward, two backward.
    for case, kind, elements, passes in (
        ("forward", forward, features + width, 1),
        ("forward + backward", forward_and_backward, 3 * features + 2 * width, 3),
    ):
        memory = Limit("memory", copy, BATCH * elements * dtype.size / copy.copied_bytes)
        products = Limit(
            "arithmetic",
            lambda: tf.linalg.matmul(square, square).numpy(),
            passes * pair_flops / (2 * 1024**3),
        )
        for compiled in (False, True):
            yield compare(
                "interaction",
                f"{case}, {dtype.name}" + (", vs XLA" if compiled else ""),
                [memory, products],
                kind(dot_interaction),
                kind(dot_interaction_tensorflow, compiled),
                rounds,
            )


def power_law_ids(rng, sizes, exponent=1.05):
    """Returns ids [B, T] whose k-th most frequent one has P ~ k ** -exponent in its table."""
    u = rng.random((BATCH, TABLES))
    power = 1 - exponent
    rank = ((u * ((sizes + 1.0) ** power - 1) + 1) ** (1 / power)).astype(np.int64) - 1
    # A prime, so coprime to every size: scatters popular ids over the table.
    return np.minimum(rank, sizes - 1) * 2654435761 % sizes


class _Exported:
    """Gives NumPy access to a tensor's memory without a copy."""

    def __init__(self, tensor):
        self._tensor = tensor

    def __dlpack__(self, stream=None):
        return tf.experimental.dlpack.to_dlpack(self._tensor)

    def __dlpack_device__(self):
        return 1, 0


def embedding_rows(rounds, table_bytes):
    """Yields the rows of the lookup and the updates."""
    rows = table_bytes // machine.ROW_BYTES
    table = create_table(rows, DIMENSION)
    seconds, cpu_seconds = timed(lambda: embedding_initialize(table, 0, rows, 0, 0, 0.01))
    print(
        f"initialised {table_bytes / 1e9:.1f} GB at {table_bytes / seconds / 1e9:.2f} GB/s "
        f"({table_bytes / cpu_seconds / 1e9:.2f} GB/s of processor time)"
    )
    # Keeps only the address: with a second owner of the buffer, the first update would copy it.
    address = np.from_dlpack(_Exported(table.read_value())).ctypes.data
    probe = machine.RowProbe(address, table_bytes)
    rng = np.random.default_rng(0)
    equal = np.full(TABLES, rows // TABLES)
    cap = 1_000_000
    while np.minimum(VOCABULARY, cap).sum() > rows:
        cap -= 10_000
    criteo = np.minimum(VOCABULARY, cap)
    # New ids every round, as in training: the rows of one batch partly fit into the caches.
    cases = (
        ("uniform ids", equal, [rng.integers(0, equal, (BATCH, TABLES)) for _ in range(5)]),
        ("power-law ids", equal, [power_law_ids(rng, equal) for _ in range(5)]),
        ("Criteo tables, power-law", criteo, [power_law_ids(rng, criteo) for _ in range(5)]),
    )
    accumulator = tf.Variable(tf.ones([rows]))
    for case, sizes, batches in cases:
        for dtype in (tf.float32, tf.bfloat16):
            yield from embedding_case(
                f"{case}, {dtype.name}", table, accumulator, probe, sizes, batches, dtype, rounds
            )
    for hotness, tables in POOLED:
        sizes = np.full(tables, rows // tables)
        # Slots that may be empty, so that the op is the one for bags with one id, too.
        bags = Bags.of((hotness,) * tables, variable=(True,) * tables)
        batches = [rng.integers(0, rows // tables, (BATCH, bags.slots)) for _ in range(3)]
        yield from embedding_case(
            f"{tables} x {hotness} pooled ids, float32", table, accumulator, probe, sizes,
            [ids.astype(np.int32) for ids in batches], tf.float32, rounds, bags,
        )  # fmt: skip


def embedding_case(case, table, accumulator, probe, sizes, batches, dtype, rounds, bags=None):
    """Yields the rows of lookup, SGD and row-wise Adagrad for one set of tables and ids."""
    gradients = tf.cast(0.01 * tf.random.normal([BATCH, len(sizes), DIMENSION]), dtype)
    bases, sizes = tf.constant(np.cumsum(sizes) - sizes), tf.constant(sizes)
    count = batches[0].size / probe.count
    batches = [tf.constant(ids) for ids in batches]

    def lookup(function):
        run = tf.function(lambda ids: function(table, RowIds(ids, bases, sizes, bags), dtype))
        ids = itertools.cycle(batches)
        return lambda: run(next(ids))

    def update(optimizer, *states):
        values = optimizer.rule_values
        rule, formula = RowRule(optimizer.name, values), optimizer.formula

        @tf.function
        def native(ids):
            where = RowIds(ids, bases, sizes, bags)
            embedding_update(table, states, where, gradients, 0.01, rule=rule)

        @tf.function
        def tensorflow(ids):
            where = RowIds(ids, bases, sizes, bags)
            embedding_update_tensorflow(table, states, where, gradients, 0.01, 1.0, formula, values)

        ids, same_ids = itertools.cycle(batches), itertools.cycle(batches)
        return lambda: native(next(ids)), lambda: tensorflow(next(same_ids))

    reads = Limit("row reads", lambda: probe(write=False), count)
    writes = Limit("row updates", lambda: probe(write=True), count)
    for op, limit, ours, theirs in (
        ("lookup", reads, lookup(embedding_lookup), lookup(embedding_lookup_tensorflow)),
        ("SGD", writes, *update(OPTIMIZERS["sgd"])),
        ("Adagrad", writes, *update(OPTIMIZERS["rowwise_adagrad"], accumulator)),
    ):
        yield compare(op, case, [limit], ours, theirs, rounds)


def main():
    """Prints the table; with --json also writes it to a file."""
    parser = argparse.ArgumentParser(description=first_paragraph(__doc__))
    parser.add_argument("--json", type=results_file.target, help="file to write the rows to")
    parser.add_argument("--rounds", type=whole_number(1), default=15, help="timed rounds per case")
    parser.add_argument(
        "--table_bytes", type=whole_number(1 << 20, 1 << 40), default=3_600_000_000,
        help="bytes of the embedding table",
    )  # fmt: skip
    parser.add_argument("--only", choices=("interaction", "mlp", "embedding"), help="ops to time")
    arguments = parser.parse_args()
    environment.prepare()  # training's memory allocator, for both sides
    load = os.getloadavg()[0]
    print(
        f"{machine.processor()}, {machine.threads()} cores, {instruction_set.current()} kernels, "
        f"TensorFlow {tf.__version__}, load average {load:.1f}\n"
        f"B = {BATCH} except for MLPs, T = {TABLES}, D = {DIMENSION}; times in ms, speedup and "
        f"share also by processor time (cpu)\n"
        f"{'op':11s} {'case':42s} {'ours':>7s}  TensorFlow, speedup (cpu)  limit: share (cpu)"
    )
    rows = []
    if arguments.only in (None, "interaction"):
        copy = machine.CopyProbe()
        for dtype in (tf.float32, tf.bfloat16):
            rows += interaction_rows(dtype, copy, arguments.rounds)
        del copy
    if arguments.only in (None, "mlp"):
        rows += mlp_rows(arguments.rounds)
    if arguments.only in (None, "embedding"):
        rows += embedding_rows(arguments.rounds, arguments.table_bytes)
    print(f"load average at the end {os.getloadavg()[0]:.1f}")
    if arguments.json:
        report = {
            "processor": machine.processor(), "threads": machine.threads(),
            "instruction_set": instruction_set.current(), "tensorflow": tf.__version__,
            "load_average": load, "rows": [dataclasses.asdict(row) for row in rows],
        }  # fmt: skip
        results_file.write(arguments.json, "ops", report)


if __name__ == "__main__":
    main()
