"""Five small tables held by SOK: their initial values, and reading all rows of a rank."""

import numpy as np

from ops.embedding import create_table, embedding_initialize

VOCAB = (13, 1, 7, 3, 50)
DIMENSION = 8
LOCAL_BATCH = 6


def power_law_ids(rng, *shape):
    """Returns int32 ids [*shape, tables] with many repetitions within and across ranks."""
    return ((rng.zipf(1.3, (*shape, len(VOCAB))) - 1) % np.array(VOCAB)).astype(np.int32)


def initial_tables(seed):
    """Returns the initial rows of each table, float64 [rows, D], as the native op makes them."""
    tables = []
    for t, rows in enumerate(VOCAB):
        table = create_table(rows, DIMENSION)
        embedding_initialize(table, 0, rows, t, seed, rows**-0.5)
        tables.append(table.numpy().astype(np.float64))
    return tables


def held_rows(embedding, state=None):
    """Returns {(table, id): row, or its state} of one rank."""
    rows = {}
    for shard in embedding.shards:
        ids = shard.row_offset + shard.row_stride * np.arange(shard.rows)
        for i, row in zip(ids, embedding.read_rows(shard.table, ids, state)):
            rows[shard.table, int(i)] = row
    return rows
