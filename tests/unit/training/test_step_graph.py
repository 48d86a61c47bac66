"""The graph of a GPU's step: how much TensorFlow executes, and what does not wait for what."""

import pytest
import tensorflow as tf

from ops.nvtx import ranges
from tests.support.ops.graphs import ancestors
from tests.support.placement.executed import executed
from tests.support.placement.traced_step import traced
from tests.support.placement.two_ranks import TwoRanks, horovod_ranks
from tests.support.training.small_model import BATCH, DIMENSION, MAIN, VOCAB
from training import phases
from training.dense_phases import GpuKernels
from training.precision import LossScale

FUSED = {
    "kernels": GpuKernels(fused=True, update=True), "fused_mlp": True, "custom_interact": True,
    "dtype": "float16",
}  # fmt: skip
MOST_NODES, MOST_KERNELS = 70, 45


def of_main(seed, **options):
    """Returns what a step of the published model executes."""
    scale = LossScale(1024.0)
    return executed(
        traced(seed, sizes=MAIN, scale=scale, custom_interact=True, dtype="float16", **options)
    )


def test_step_of_the_published_model_executes_few_nodes_and_kernels(seed):
    layers = of_main(seed)
    fused = of_main(seed, kernels=FUSED["kernels"], fused_mlp=True)
    message = f"\nfused: {fused}\nTensorFlow's layers: {layers}"
    assert fused.nodes.total() <= MOST_NODES, message
    assert fused.kernels.total() <= MOST_KERNELS, message
    assert fused.nodes.total() < layers.nodes.total() / 3, message
    assert fused.kernels.total() < layers.kernels.total() / 3, message


def test_native_update_replaces_all_nodes_of_the_optimizer(seed):
    layers, update = of_main(seed), of_main(seed, kernels=GpuKernels(update=True))
    assert layers.nodes["ResourceApplyGradientDescent"] == 16
    assert layers.nodes["RealDiv"] - update.nodes["RealDiv"] == 16
    for name in ("ResourceApplyGradientDescent", "AssignVariableOp", "AssignAddVariableOp"):
        assert update.nodes[name] == 0
    assert update.nodes["Dlrm>DenseUpdate"] == update.nodes["Dlrm>RecordLoss"] == 1


def test_calls_count_what_is_executed():
    inner = tf.function(lambda x: tf.exp(x) + 1.0, autograph=False)
    variable = tf.Variable([1.0, 2.0])

    def body(x):
        with tf.device("GPU:0"):
            constant = tf.negative(tf.constant([2.0, 3.0]))  # computed before the first step
            unused = tf.sqrt(x)
            variable.assign_add(tf.identity(inner(x)) * constant)
            return tf.reshape(x, [1, 2]), unused.shape

    graph = tf.function(body, autograph=False).get_concrete_function(tf.TensorSpec([2])).graph
    found = executed(graph)
    assert dict(found.nodes) == {
        "Exp": 1, "AddV2": 1, "Mul": 1, "AssignAddVariableOp": 1, "Reshape": 1
    }  # fmt: skip
    assert {name for name, count in found.kernels.items() if count} == {
        "Exp", "AddV2", "Mul", "AssignAddVariableOp"
    }  # fmt: skip


def of_type(graph, kind):
    return [op for op in graph.get_operations() if op.type == kind]


@pytest.mark.parametrize("skips", [False, True], ids=["", "skips"])
def test_gradients_of_vectors_travel_beside_the_bottom_backward_pass(skips, seed):
    graph = traced(seed, cluster=TwoRanks(), scale=LossScale(1024.0, dynamic=skips), **FUSED)
    travels = graph.get_operation_by_name("exchange_gradients")
    top, bottom = of_type(graph, "Dlrm>MlpBackward")
    assert (top.get_attr("input_gradient"), bottom.get_attr("input_gradient")) == (True, False)
    assert top in ancestors(travels)
    assert bottom not in ancestors(travels)
    assert travels not in ancestors(bottom)
    (update,) = of_type(graph, "Dlrm>DenseUpdate")
    assert travels not in ancestors(update)
    (rows,) = of_type(graph, "Dlrm>EmbeddingUpdate")
    if not skips:
        assert bottom not in ancestors(rows)


def test_all_that_is_averaged_travels_as_one_buffer(seed):
    graph = traced(seed, cluster=TwoRanks(), scale=LossScale(1024.0, dynamic=True), **FUSED)
    averaged = [op for op in graph.get_operations() if op.name.startswith("dense_gradients")]
    (travels,) = averaged
    (update,) = of_type(graph, "Dlrm>DenseUpdate")
    assert update.get_attr("G") == 1
    assert travels in ancestors(update)
    variables = sum(
        tensor.shape.num_elements()
        for op in of_type(graph, "Dlrm>LogLoss") + of_type(graph, "Dlrm>MlpBackward")
        for tensor in op.outputs
        if tensor.dtype == tf.float32 and tensor.shape.rank
    )
    # The gradients, the loss, two votes, and whether the vectors' gradients are finite.
    (flat,) = travels.outputs
    assert flat.shape == [variables + 1 + 2 + 1]


@pytest.mark.parametrize("options", [{"custom_interact": True}, FUSED], ids=["layers", "fused"])
def test_exchanged_tensors_have_static_shapes(options, seed):
    graph = traced(seed, cluster=horovod_ranks(), **options)
    for name in ("exchange_vectors", "exchange_gradients"):
        (received,) = graph.get_operation_by_name(name).outputs
        assert received.shape[0] is None  # Horovod does not know it
    (interaction,) = of_type(graph, "Dlrm>DotInteractionSplit")
    assert interaction.inputs[1].shape == [BATCH, len(VOCAB), DIMENSION]
    (update,) = of_type(graph, "Dlrm>EmbeddingUpdate")
    (gradients,) = [t for t in update.inputs if t.shape.rank == 3]
    assert gradients.shape.is_fully_defined()
    assert gradients.shape[0] == 2 * BATCH


def test_phases_of_a_fused_step_have_ranges_in_order(monkeypatch, seed):
    monkeypatch.setattr(ranges, "is_tool_attached", lambda: True)
    graph = traced(seed, cluster=TwoRanks(), **FUSED)
    labels = [op.get_attr("label").decode() for op in of_type(graph, "Dlrm>NvtxRangeStart")]
    assert labels == [
        phases.RECEIVE, phases.LOOKUP, phases.EXCHANGE_VECTORS, phases.DENSE,
        phases.EXCHANGE_GRADIENTS, phases.BOTTOM_BACKWARD, phases.AVERAGE, phases.UPDATE_DENSE,
        phases.UPDATE_ROWS, phases.EXCHANGE_IDS, phases.UPLOAD,
    ]  # fmt: skip
    *_, bottom = of_type(graph, "Dlrm>MlpBackward")
    assert graph.get_operation_by_name("exchange_gradients") not in ancestors(bottom)
