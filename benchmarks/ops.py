"""Times the custom ops beside the machine's limits and beside TensorFlow's own formulations.

    python3 -m benchmarks.ops [--json FILE] [--rounds N] [--table_bytes N] [--only TEXT]

One row for each op and case. Limit, op and TensorFlow are timed in turn, round after round, so that
whatever else the machine does falls on all of them; figures are medians over the rounds, and the
ratios are the medians of each round's own. An interaction has two limits: its bytes at the measured
copy bandwidth, and its products at the measured rate of TensorFlow's matrix product; an MLP has the
latter alone; a lookup or update has the measured rate of random rows in the same table. Each ratio
is given twice: by the clock, and by processor time, which other programs disturb less.
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
from storage.arguments import first_paragraph, whole_number
from training.runtime import environment

BATCH, TABLES, DIMENSION = 8192, 26, 128
# Vocabulary sizes of the Criteo Terabyte logs (MLPerf, 40 million at most), capped for this table.
VOCABULARY = (
    39884406, 39043, 17289, 7420, 20263, 3, 7120, 1543, 63, 38532951, 2953546, 403346, 10, 2208,
    11938, 155, 4, 976, 14, 39979771, 25641295, 39664984, 585935, 12972, 108, 36,
)  # fmt: skip


def interaction_rows(dtype, copy, rounds):
    """Yields rows of the dot interaction of one type: forward, and forward and backward."""
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

    # Bytes: the features in and the output out; backward the features and the output's gradient
    # in, the features' gradient out. Products: one set forward, two backward.
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
                f"{case}, {dtype.name}" + (", beside XLA" if compiled else ""),
                [memory, products],
                kind(dot_interaction),
                kind(dot_interaction_tensorflow, compiled),
                rounds,
            )


def power_law_ids(rng, sizes, exponent=1.05):
    """Ids [B, T] with P(id) about (id + 1) ** -exponent in each table, scattered over its rows."""
    u = rng.random((BATCH, TABLES))
    power = 1 - exponent
    rank = ((u * ((sizes + 1.0) ** power - 1) + 1) ** (1 / power)).astype(np.int64) - 1
    # Odd and prime, so coprime to every size here: popular ids are not neighbours in memory.
    return np.minimum(rank, sizes - 1) * 2654435761 % sizes


class _Exported:
    """Hands a tensor's memory to NumPy without a copy."""

    def __init__(self, tensor):
        self._tensor = tensor

    def __dlpack__(self, stream=None):
        return tf.experimental.dlpack.to_dlpack(self._tensor)

    def __dlpack_device__(self):
        return 1, 0


def embedding_rows(rounds, table_bytes):
    """Yields rows of the lookup and the updates."""
    rows = table_bytes // machine.ROW_BYTES
    table = create_table(rows, DIMENSION)
    seconds, cpu_seconds = timed(lambda: embedding_initialize(table, 0, rows, 0, 0, 0.01))
    print(
        f"initialised {table_bytes / 1e9:.1f} GB at {table_bytes / seconds / 1e9:.2f} GB/s by the "
        f"clock, {table_bytes / cpu_seconds / 1e9:.2f} GB/s by processor time"
    )
    # The address alone: a second owner of the buffer would make the first update copy it.
    address = np.from_dlpack(_Exported(table.read_value())).ctypes.data
    probe = machine.RowProbe(address, table_bytes)
    rng = np.random.default_rng(0)
    equal = np.full(TABLES, rows // TABLES)
    cap = 1_000_000
    while np.minimum(VOCABULARY, cap).sum() > rows:
        cap -= 10_000
    criteo = np.minimum(VOCABULARY, cap)
    # New ids every round, as in training: those of one batch would half fit into the caches.
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


def embedding_case(case, table, accumulator, probe, sizes, batches, dtype, rounds):
    """Yields rows of the lookup, SGD and row-wise Adagrad for one set of tables and ids."""
    bases, sizes = tf.constant(np.cumsum(sizes) - sizes), tf.constant(sizes)
    gradients = tf.cast(0.01 * tf.random.normal([BATCH, TABLES, DIMENSION]), dtype)
    batches = [tf.constant(ids) for ids in batches]
    count = BATCH * TABLES / probe.count

    def look(function):
        run = tf.function(lambda ids: function(table, ids, bases, sizes, dtype))
        ids = itertools.cycle(batches)
        return lambda: run(next(ids))

    def update(optimizer, *states):
        values = optimizer.rule_values
        rule, formula = RowRule(optimizer.name, values), optimizer.formula

        @tf.function
        def native(ids):
            embedding_update(table, states, RowIds(ids, bases, sizes), gradients, 0.01, rule=rule)

        @tf.function
        def tensorflow(ids):
            embedding_update_tensorflow(
                table, states, RowIds(ids, bases, sizes), gradients, 0.01, 1.0, formula, values
            )

        ids, other_ids = itertools.cycle(batches), itertools.cycle(batches)
        return lambda: native(next(ids)), lambda: tensorflow(next(other_ids))

    reads = Limit("row reads", lambda: probe(write=False), count)
    writes = Limit("row updates", lambda: probe(write=True), count)
    for op, limit, own, other in (
        ("lookup", reads, look(embedding_lookup), look(embedding_lookup_tensorflow)),
        ("SGD", writes, *update(OPTIMIZERS["sgd"])),
        ("Adagrad", writes, *update(OPTIMIZERS["rowwise_adagrad"], accumulator)),
    ):
        yield compare(op, case, [limit], own, other, rounds)


def main():
    """Prints the table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=first_paragraph(__doc__))
    parser.add_argument("--json", type=results_file.target, help="file to write the rows to")
    parser.add_argument("--rounds", type=whole_number(1), default=15)
    parser.add_argument("--table_bytes", type=whole_number(1 << 20, 1 << 40), default=3_600_000_000)
    parser.add_argument("--only", choices=("interaction", "mlp", "embedding"))
    arguments = parser.parse_args()
    environment.prepare()  # the memory allocator that training has, for both sides
    load = os.getloadavg()[0]
    print(
        f"{machine.processor()}, {machine.threads()} cores, {instruction_set.current()} kernels, "
        f"TensorFlow {tf.__version__}, load average {load:.1f}\n"
        f"B = {BATCH} but for the MLPs', T = {TABLES}, D = {DIMENSION}; times in ms\n"
        f"{'op':11s} {'case':42s} {'time':>7s}  TensorFlow's  (cpu)  limit's: share (cpu)"
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
            "processor": machine.processor(),
            "threads": machine.threads(),
            "instruction_set": instruction_set.current(),
            "tensorflow": tf.__version__,
            "load_average": load,
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        results_file.write(arguments.json, "ops", report)


if __name__ == "__main__":
    main()
