"""Collectives of `HorovodProcessGroup` on two ranks, against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support import launch
from tests.support.training.process_group_worker import inputs

SIZE = 2


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, seed_of):
    """(inputs of each rank, results of each rank) of one launch."""
    folder, seed = tmp_path_factory.mktemp("results"), seed_of("process_group")
    done = launch.run(SIZE, "-m", "tests.support.training.process_group_worker", seed, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [dict(np.load(folder / f"rank_{rank}.npz")) for rank in range(SIZE)]
    return [inputs(seed, rank, SIZE) for rank in range(SIZE)], results


def received(given, name, rank):
    """Returns the parts of array `name` that all ranks send to `rank`, joined in rank order."""
    parts = [np.split(one[name], np.cumsum(one["splits"])[:-1])[rank] for one in given]
    return np.concatenate(parts)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_alltoall_sends_rows_in_rank_order(two_ranks, dtype):
    given, results = two_ranks
    for rank, found in enumerate(results):
        assert found["place"].tolist() == [rank, SIZE, rank, SIZE]
        rows = received(given, "rows", rank)
        expected = rows if dtype == "float32" else rows.astype(tf.bfloat16.as_numpy_dtype)
        np.testing.assert_array_equal(found[f"rows_{dtype}"], expected.astype(np.float32))
        counts = [one["splits"][rank] for one in given]
        np.testing.assert_array_equal(found["counts"], counts)


def test_alltoallv_sends_parts_in_rank_order(two_ranks):
    given, results = two_ranks
    for rank, found in enumerate(results):
        expected = received(given, "bytes", rank)
        np.testing.assert_array_equal(found["alltoallv"], expected, strict=True)


def test_all_reduce_mean_averages_each_tensor(two_ranks):
    given, results = two_ranks
    expected = np.mean([one["means"] for one in given], axis=0, dtype=np.float64)
    for found in results:
        np.testing.assert_allclose(found["mean_0"], expected, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(found["mean_1"], expected[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["integers", "floats"])
def test_all_reduce_sum_keeps_the_dtype(two_ranks, name):
    given, results = two_ranks
    expected = np.sum([one[name] for one in given], axis=0)
    for found in results:
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)


def test_gather_and_broadcast_give_all_ranks_the_same_values(two_ranks):
    given, results = two_ranks
    for found in results:
        np.testing.assert_array_equal(found["gather"], [one["value"] for one in given])
        np.testing.assert_array_equal(found["broadcast"], given[0]["means"])
