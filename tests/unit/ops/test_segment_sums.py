"""Sums of rows by segment against NumPy, and for no segment."""

from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from ops.embedding import RowIds, embedding_lookup_tensorflow, embedding_update_tensorflow
from ops.embedding.segment_sums import sparse_segment_sum


def test_segment_sums_match_numpy(rng):
    values = rng.normal(size=(20, 3)).astype(np.float32)
    indices, segments = rng.integers(0, 20, 50), np.sort(rng.integers(0, 8, 50))
    expected = np.zeros((9, 3))
    np.add.at(expected, segments, values[indices])
    found = sparse_segment_sum(values, tf.constant(indices), tf.constant(segments), 9)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.fixture
def gpu_rules(monkeypatch):
    """TensorFlow's kernel for GPUs rejects 0 segments, unlike that for CPUs."""
    original = tf.sparse.segment_sum

    def segment_sum(*arguments, num_segments, **options):
        assert int(num_segments) > 0, "segment ids must be >= 0"
        return original(*arguments, num_segments=num_segments, **options)

    with mock.patch.object(tf.sparse, "segment_sum", segment_sum):
        yield


def test_no_segment_has_no_sum(gpu_rules):
    none = tf.zeros([0], tf.int32)
    assert sparse_segment_sum(tf.zeros([5, 3]), none, none, tf.constant(0)).shape == (0, 3)


def test_tensorflows_ops_on_no_bag_or_only_empty_bags(gpu_rules, rng):
    values = rng.normal(size=(6, 4)).astype(np.float32)
    for bags in (0, 3):
        table = tf.Variable(values)
        where = RowIds(tf.zeros([0], tf.int32), [0], [6], offsets=tf.zeros([bags + 1], tf.int32))
        np.testing.assert_array_equal(
            embedding_lookup_tensorflow(table, where), np.zeros((bags, 1, 4))
        )
        embedding_update_tensorflow(table, [], where, tf.ones([bags, 1, 4]), 0.5)
        np.testing.assert_array_equal(table, values)
