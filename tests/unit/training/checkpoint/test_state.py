"""`State`: the values that a checkpoint stores, and which rank writes them."""

import math

import numpy as np
import pytest

from tests.support.thread_ranks import ThreadRanks
from tests.support.training.checkpoint import distributed_job
from tests.support.training.checkpoint.distributed_job import fill, named_values, stored_values


def on_ranks(size, body, kind="replicated"):
    """Returns [(state, body(state, rank))] of all ranks."""

    def run(cluster):
        state = distributed_job.job(cluster, kind, "adagrad")
        return state, body(state, cluster.rank)

    return ThreadRanks(size).run(run)


def test_names_have_the_order_of_the_variables():
    ((state, _),) = on_ranks(1, lambda state, rank: None, "table")
    for group in ("dense", "optimizer"):
        numbers = [int(name.partition(".")[0]) for name in state.named[group]]
        assert numbers == list(range(len(numbers)))
    assert list(state.named["dense"])[:2] == ["00.kernel", "01.bias"]
    assert "loss_scale" in state.named["loss_scale"]
    assert state.dynamic_scale


def test_copies_hold_the_values_of_the_moment(seed):
    def body(state, rank):
        fill(state, seed)
        copies = state.copies(rank)
        fill(state, seed + 1)  # Training continues.
        return copies

    results = on_ranks(3, body)
    state, copies = results[0]
    for group, variables in state.named.items():
        for index, (name, variable) in enumerate(variables.items()):
            expected = named_values(group, index, variable, seed)
            np.testing.assert_array_equal(copies.named[group][name], expected)
    assert [copies.named for _, copies in results[1:]] == [{}, {}]
    for _, copies in results:
        for stored, values in copies.shards:
            np.testing.assert_array_equal(values, stored_values(stored, seed))


def test_one_rank_copies_each_replicated_table():
    results = on_ranks(2, lambda state, rank: state.copies(rank))
    tables = [{stored.shard.table for stored, _ in copies.shards} for _, copies in results]
    # Tables 1 and 3 are replicated: both belong to rank 1 of 2.
    assert tables == [set(), {1, 3}]


@pytest.mark.parametrize("size", [1, 3])
def test_bytes_of_all_ranks_add_up_to_the_model(size):
    results = on_ranks(size, lambda state, rank: state.bytes_of(rank), "row")
    state = results[0][0]
    variables = [v for group in state.named.values() for v in group.values()]
    dense = sum(math.prod(v.shape) * v.dtype.size for v in variables)
    rows = sum(distributed_job.VOCAB)
    # Rows and Adagrad's accumulators, float32.
    assert sum(count for _, count in results) == dense + 2 * 4 * rows * distributed_job.DIMENSION
