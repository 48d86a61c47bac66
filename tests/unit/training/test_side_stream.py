"""--embedding_stream: the order in which a step's ops are executed on the host, and its values."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.ops.graphs import ancestors
from tests.support.placement.executed import executed
from tests.support.placement.traced_step import traced
from tests.support.placement.two_ranks import TwoRanks
from tests.support.training.small_model import batches, build, state, train
from training.dense_phases import GpuKernels
from training.precision import LossScale

FUSED = {
    "kernels": GpuKernels(fused=True, update=True), "fused_mlp": True, "custom_interact": True,
    "dtype": "float16",
}  # fmt: skip


class Step:
    """The ops of a step's graph.

    Args:
        seed, options: as for `traced`.
    """

    def __init__(self, seed, *, skips=False, side_stream=True, **options):
        scale = LossScale(1024.0, dynamic=skips)
        self.graph = traced(seed, scale=scale, side_stream=side_stream, **{**FUSED, **options})
        (self.lookup,) = self.of_type("Dlrm>EmbeddingLookup")
        self.bottom_forward, _ = self.of_type("Dlrm>MlpForward")
        (self.interaction,) = self.of_type("Dlrm>DotInteractionSplit")
        _, self.bottom_backward = self.of_type("Dlrm>MlpBackward")
        (self.row_update,) = self.of_type("Dlrm>EmbeddingUpdate")
        self.joins = self.of_type("Dlrm>JoinSideStream")

    def of_type(self, kind):
        return [op for op in self.graph.get_operations() if op.type == kind]


@pytest.mark.parametrize("skips", [False, True], ids=["", "skips"])
def test_lookup_precedes_the_bottom_mlp_and_is_joined_before_the_interaction(skips, seed):
    step = Step(seed, skips=skips)
    assert step.lookup.get_attr("side_stream")
    assert step.lookup in ancestors(step.bottom_forward)
    join = step.joins[0]
    assert {step.lookup, step.bottom_forward} <= ancestors(join)
    # Nothing else may use the vectors.
    assert step.lookup.outputs[0].consumers() == [join]
    assert [tensor.op for tensor in step.interaction.inputs] == [join, join]


@pytest.mark.parametrize("embedding_optimizer", ["sgd", "ftrl"])
@pytest.mark.parametrize("skips", [False, True], ids=["", "skips"])
def test_row_update_is_joined_after_all_that_runs_next_to_it(skips, embedding_optimizer, seed):
    step = Step(seed, skips=skips, embedding_optimizer=embedding_optimizer)
    assert step.row_update.get_attr("side_stream")
    (dense_update,), (record,) = step.of_type("Dlrm>DenseUpdate"), step.of_type("Dlrm>RecordLoss")
    beside = [dense_update, record] if skips else [step.bottom_backward, dense_update, record]
    for op in beside:
        assert step.row_update in ancestors(op), op.name
    join = step.joins[1]
    assert {step.row_update, step.bottom_backward, *beside} <= ancestors(join)
    assert join in step.graph.control_outputs  # executed before the step ends
    # No other op uses the table or its states, which are joined, too.
    used = {t.name for t in step.row_update.inputs if t.dtype == tf.resource}
    users = [
        op for op in step.graph.get_operations() if used & {tensor.name for tensor in op.inputs}
    ]
    assert users == [step.lookup, step.joins[0], step.row_update, join]
    assert used <= {tensor.name for tensor in join.inputs}


def test_update_of_tensorflows_optimizer_precedes_the_join(seed):
    step = Step(seed, kernels=GpuKernels(fused=True))
    updates = step.of_type("ResourceApplyGradientDescent")
    assert len(updates) == 8
    adds = step.of_type("AssignAddVariableOp")
    (record,) = [op for op in adds if op.inputs[1].dtype == tf.float64]
    assert {*updates, record} <= ancestors(step.joins[1])


@pytest.mark.parametrize("options", [{}, {"replicate_below_rows": 60}], ids=["", "replicated"])
@pytest.mark.parametrize("skips", [False, True], ids=["", "skips"])
def test_several_ranks_only_update_on_the_side_stream(skips, options, seed):
    scale = LossScale(1024.0, dynamic=skips)
    graph = traced(seed, scale=scale, side_stream=True, cluster=TwoRanks(), **{**FUSED, **options})

    def of_type(kind):
        return [op for op in graph.get_operations() if op.type == kind]

    updates = of_type("Dlrm>EmbeddingUpdate")
    assert [op.get_attr("side_stream") for op in updates] == len(updates) * [True]
    assert not any(op.get_attr("side_stream") for op in of_type("Dlrm>EmbeddingLookup"))
    (join,) = of_type("Dlrm>JoinSideStream")
    (dense_update,), (record,) = of_type("Dlrm>DenseUpdate"), of_type("Dlrm>RecordLoss")
    assert {*updates, dense_update, record} <= ancestors(join)
    # The phases beside it do not wait on the host for the gradients of rows.
    _, bottom_backward = of_type("Dlrm>MlpBackward")
    for op in (bottom_backward, dense_update, record):
        assert not set(updates) & ancestors(op)


@pytest.mark.parametrize("skips", [False, True], ids=["", "skips"])
def test_side_stream_adds_only_the_joins(skips, seed):
    without, step = Step(seed, skips=skips, side_stream=False), Step(seed, skips=skips)
    assert without.joins == []
    assert not without.lookup.get_attr("side_stream")
    assert not without.row_update.get_attr("side_stream")
    assert without.lookup not in ancestors(without.bottom_forward)
    assert without.row_update not in ancestors(without.bottom_backward)
    found, before = executed(step.graph), executed(without.graph)
    added = found.nodes - before.nodes
    assert added.pop("Dlrm>JoinSideStream") == 2
    assert before.nodes - found.nodes == {}
    if not skips:
        assert added == {}
        assert found.kernels == before.kernels


def test_lookups_outside_of_training_use_no_side_stream(seed):
    _model, embedding, *_ = build(seed, side_stream=True)
    assert embedding.for_training().side_stream.lookup
    ids = tf.zeros([64, 3], tf.int32)

    def body():
        return embedding.lookup_local(embedding.plan_ids(ids))

    graph = tf.function(body, autograph=False).get_concrete_function().graph
    (lookup,) = [op for op in graph.get_operations() if op.type == "Dlrm>EmbeddingLookup"]
    assert not lookup.get_attr("side_stream")


@pytest.mark.parametrize("skips", [False, True], ids=["", "skips"])
@pytest.mark.parametrize("embedding_optimizer", ["sgd", "rowwise_adagrad"])
def test_side_stream_does_not_change_the_results(skips, embedding_optimizer, rng, seed):
    """On a CPU, where the joins do nothing: the reordered phases compute the same."""
    made = batches(4, rng)
    results = []
    for side_stream in (False, True):
        scale = LossScale(64.0, dynamic=skips)
        *parts, step = build(
            seed, side_stream=side_stream, scale=scale, embedding_optimizer=embedding_optimizer
        )
        results.append([train(step, made), *state(*parts)])
    for ours, expected in zip(*results):
        np.testing.assert_array_equal(ours, expected)
