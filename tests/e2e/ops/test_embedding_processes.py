"""Properties of the embedding ops that depend on the process: memory and number of threads."""

import os

import numpy as np
import pytest
import tensorflow as tf

from ops.embedding import RowRule, embedding_update
from tests.support import launch
from tests.unit.ops.test_embedding import (
    ROWS,
    equal_ids,
    random_gradients,
    table_of,
    uniform_ids,
    update_adagrad,
    update_sgd,
    zipf_ids,
)
from tests.unit.ops.test_embedding_bags import FORMS, batch_of

# Arguments: threads, seed, output file.
PROGRAM = r"""
import re, sys
import numpy as np, tensorflow as tf
from ops.embedding import create_table, write_rows
from tests.e2e.ops.test_embedding_processes import updated_rows

tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))

def peak():
    # Unlike getrusage's, this peak does not include that of the parent process.
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) << 10

def assign(variable, begin, values):
    variable[begin : begin + len(values)].assign(values)

piece = np.ones((1 << 13, 256), np.float32)
warm = create_table(10, 256)
for write in (write_rows, assign):
    write(warm, 3, piece[:2])
before, tables = peak(), []
for write in (write_rows, assign):
    table = create_table(1 << 16, 256)
    for begin in range(0, 1 << 16, len(piece)):
        write(table, begin, piece)
    tables.append((peak() - before) / (1 << 26))
    del table
updated = updated_rows(np.random.default_rng(int(sys.argv[2])))
np.savez(sys.argv[3], peaks=tables, **{f"updated {k}": rows for k, rows in enumerate(updated)})
"""


def updated_rows(rng):
    """Returns the tables and states after updates with different distributions of ids."""
    results = []
    for make_ids in (equal_ids, zipf_ids, uniform_ids):
        ids = make_ids(rng, 3000)
        table, accumulator = tf.Variable(table_of(rng, 96)), tf.Variable(tf.ones([ROWS, 96]))
        gradients = random_gradients(rng, ids, 96)
        update_sgd(table, ids, gradients, 0.3)
        results.append(table.numpy())
        update_adagrad(table, accumulator, ids, gradients, 0.3)
        results += [table.numpy(), accumulator.numpy()]
    for form in FORMS:
        batch = batch_of(rng, form, 3000)
        table, accumulator = tf.Variable(table_of(rng, 96)), tf.Variable(tf.ones([ROWS, 96]))
        gradients = rng.standard_normal((*batch.shape, 96), dtype=np.float32)
        embedding_update(table, [], batch.where, gradients, 0.3)
        rule = RowRule("adagrad", (1e-8,))
        embedding_update(table, [accumulator], batch.where, gradients, 0.3, rule=rule)
        results += [table.numpy(), accumulator.numpy()]
    return results


@pytest.fixture(scope="module")
def process(seed_of, tmp_path_factory):
    """Returns the arrays of a process with another number of threads than this one."""
    threads = 1 if (os.cpu_count() or 1) > 1 else 2
    path = tmp_path_factory.mktemp("process") / "arrays.npz"
    done = launch.run(1, "-c", PROGRAM, str(threads), str(seed_of("updates")), str(path))
    assert done.returncode == 0, done.stderr
    with np.load(path) as arrays:
        return dict(arrays)


def test_updates_do_not_depend_on_the_number_of_threads(process, seed_of):
    expected = updated_rows(np.random.default_rng(seed_of("updates")))
    for k, rows in enumerate(expected):
        np.testing.assert_array_equal(process[f"updated {k}"], rows)


def test_write_rows_does_not_copy_the_table(process):
    # Peak memory in sizes of the table, 64 MiB.
    in_place, by_assignment = process["peaks"]
    assert 0.9 < in_place < 1.5
    assert by_assignment > 1.6  # shows that the measurement detects a copy
