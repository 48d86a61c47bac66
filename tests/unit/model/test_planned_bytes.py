"""The planner's exchanged bytes against the bytes that the exchanges move."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from model.embedding.exchange import TableExchange
from model.embedding.row_exchange import RowExchange
from model.embedding.sharded import exchanges_complete_tables
from planner.workload import ModelShape, count_step, exchanged_values
from tests.support.model.placements import placement_of
from tests.support.thread_ranks import ThreadRanks

VOCAB, DIMENSION, LOCAL_BATCH = (11, 1, 7, 3, 50), 8, 6
SHAPE = ModelShape(VOCAB, DIMENSION, 2, (DIMENSION,), (1,))


class CountingCluster:
    """Counts the bytes of a rank's alltoalls by the exchange's name."""

    def __init__(self, cluster):
        self._cluster, self.rank, self.size = cluster, cluster.rank, cluster.size
        self.sent, self.received = collections.Counter(), collections.Counter()

    def alltoall(self, tensor, splits, name):
        received, counts = self._cluster.alltoall(tensor, splits, name)
        self.sent[name] += tensor.numpy().nbytes
        self.received[name] += received.numpy().nbytes
        return received, counts


def measure(placement, ids, compress, per_table_files):
    """Runs lookup and update of one batch; returns each rank's (sent, received) counters."""
    complete = exchanges_complete_tables(placement, compress)

    def body(cluster):
        cluster = CountingCluster(cluster)
        local = ids[cluster.rank]
        if complete:
            if per_table_files:
                local = ids.reshape(-1, len(VOCAB))[:, list(placement.tables_of(cluster.rank))]
            exchange = TableExchange(
                placement, cluster, LOCAL_BATCH, model_parallel_input=per_table_files
            )
            width = DIMENSION
        else:
            exchange = RowExchange(placement, cluster, LOCAL_BATCH, compress=compress)
            width = exchange.width
        plan = exchange.plan_ids(tf.constant(local))
        exchange.exchange_vectors(plan, tf.zeros([*plan.ids.shape, width]))
        exchange.exchange_gradients(plan, tf.ones([LOCAL_BATCH, len(VOCAB), DIMENSION]))
        return cluster.sent, cluster.received

    return ThreadRanks(placement.ranks).run(body)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("kind", ["table", "row", "mixed", "column"])
@pytest.mark.parametrize(("compress", "per_table_files"), [(0, 0), (0, 1), (1, 0)])
def test_planned_bytes_match_the_exchange(kind, size, compress, per_table_files, rng):
    placement = placement_of(kind, size, VOCAB, DIMENSION)
    ids = rng.integers(0, 2**31, (size, LOCAL_BATCH, len(VOCAB)))
    ids = (ids % np.array(VOCAB)).astype(np.int32)
    measured = measure(placement, ids, compress, per_table_files)
    distinct = sum(len(set(ids[r, :, t])) for r in range(size) for t in range(len(VOCAB)))
    fraction = distinct / ids.size if compress else 1.0
    batch = size * LOCAL_BATCH
    counts = count_step(
        SHAPE, placement, batch, "fp32", unique_fraction=fraction, per_table_files=per_table_files
    )
    total = collections.Counter()
    for rank, (sent, received) in enumerate(measured):
        total.update(sent)
        vectors_sent, vectors_received = exchanged_values(placement, rank, batch)
        assert sent["exchange_gradients"] == received["exchange_vectors"]
        assert received["exchange_gradients"] == sent["exchange_vectors"]
        if not compress:
            assert received["exchange_vectors"] == 4 * vectors_received
            if not placement.row_wise_tables:
                assert sent["exchange_vectors"] == 4 * vectors_sent
    largest = max(max(c["exchange_vectors"] for c in counters) for counters in measured)
    if not compress and not placement.row_wise_tables:
        assert counts.vector_bytes == largest
    # The sum over ranks does not depend on the ids.
    received = sum(exchanged_values(placement, rank, batch)[1] for rank in range(size))
    assert total["exchange_vectors"] == pytest.approx(4 * fraction * received)
    assert total["exchange_ids"] + total["exchange_rows"] == pytest.approx(size * counts.id_bytes)
