"""`Dlrm>JoinSideStream` in graphs and on a CPU, which has no side stream."""

import numpy as np
import pytest
import tensorflow as tf

from ops import embedding, loader
from ops.side_stream import join_side_stream
from tests.support.ops.graphs import ancestors

pytestmark = pytest.mark.skipif(not loader.is_built(), reason="the library is not built")

ROWS, WIDTH = 20, 4


def make_table(rng):
    return tf.Variable(rng.normal(size=(ROWS, WIDTH)), dtype=tf.float32)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_join_returns_its_values(count, rng):
    dtypes = [tf.float32, tf.bfloat16, tf.float16][:count]
    values = [tf.cast(rng.normal(size=(2, k + 1)), dtype) for k, dtype in enumerate(dtypes)]
    joined = join_side_stream([make_table(rng)], values)
    assert len(joined) == count
    for ours, given in zip(joined, values):
        assert ours.dtype == given.dtype
        np.testing.assert_array_equal(ours.numpy(), given.numpy())


def test_join_is_ordered_by_its_variables_and_values(rng):
    table, other = make_table(rng), tf.Variable([1.0])
    ids = rng.integers(0, ROWS, (5, 1)).astype(np.int32)
    where = embedding.RowIds(ids, [0], [ROWS])

    def body(gradients):
        looked_up = embedding.embedding_lookup(table, where, side_stream=True)
        joined, beside = join_side_stream([table], [looked_up, tf.exp(gradients)])
        embedding.embedding_update(table, [], where, gradients, 0.1, side_stream=True)
        other.assign_add([1.0])
        join_side_stream([table, other])
        return joined + beside, table.read_value()

    gradients = tf.TensorSpec([5, 1, WIDTH])
    function = tf.function(body, autograph=False).get_concrete_function(gradients)
    graph = function.graph

    def of_type(kind):
        return [op for op in graph.get_operations() if op.type == kind]

    (lookup,), (update,) = of_type("Dlrm>EmbeddingLookup"), of_type("Dlrm>EmbeddingUpdate")
    first, second = of_type("Dlrm>JoinSideStream")
    (assign,), (exp,) = of_type("AssignAddVariableOp"), of_type("Exp")
    (read,) = [op for op in of_type("ReadVariableOp") if op.inputs[0] is lookup.inputs[0]]
    assert lookup.get_attr("side_stream") and update.get_attr("side_stream")
    assert {lookup, exp} <= ancestors(first)
    assert first in ancestors(update)
    assert {update, assign} <= ancestors(second)
    assert second in ancestors(read) and second in graph.control_outputs
    assert first.outputs[0].shape == [5, 1, WIDTH]
    # On a CPU the results are those without a side stream.
    before, given = table.numpy(), rng.normal(size=(5, 1, WIDTH)).astype(np.float32)
    result, after = function(tf.constant(given))
    np.testing.assert_allclose(result, before[ids] + np.exp(given), rtol=1e-5, atol=1e-5)
    expected = np.float64(before)
    np.subtract.at(expected, ids[:, 0], 0.1 * np.float64(given[:, 0]))
    np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-5)
