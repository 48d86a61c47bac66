"""NVTX ops forward their inputs unchanged; missing ranges are explained."""

import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from ops.nvtx import ranges
from tests.support.ops.graphs import ancestors


@pytest.fixture
def tool(monkeypatch):
    """Creates ranges although no tool is attached: their NVTX calls do nothing."""
    monkeypatch.setattr(ranges, "is_tool_attached", lambda: True)


def ops_of(concrete):
    return [operation.type for operation in concrete.graph.get_operations()]


def test_no_op_is_added_without_a_tool():
    values = (tf.constant(1.0), [tf.constant(2)])
    mark, same = ranges.start("x", values)
    assert mark is None
    assert same is values
    assert ranges.end(mark, values) is values

    @tf.function
    def double(x):
        mark, x = ranges.start("x", x)
        y = ranges.end(mark, 2 * x)
        ranges.end_effects(mark)
        return ranges.settle(y)

    types = ops_of(double.get_concrete_function(tf.TensorSpec([2])))
    assert not [name for name in types if "Nvtx" in name]
    with ranges.span("x"):
        pass


def test_start_and_end_forward_any_type(tool, rng):
    values = {
        "float": tf.constant(rng.normal(size=(3, 4)), tf.float32),
        "others": [
            tf.constant(rng.integers(0, 99, 5), tf.int32),
            tf.constant(["a", "b"]),
            tf.cast(rng.normal(size=2), tf.bfloat16),
        ],
    }

    def through(values):
        mark, values = ranges.start("x", values)
        return ranges.end(mark, values)

    spec = tf.nest.map_structure(lambda v: tf.TensorSpec([None] * v.shape.rank, v.dtype), values)
    for function in (through, tf.function(through, input_signature=[spec])):
        result = function(values)
        tf.nest.assert_same_structure(result, values)
        for ours, expected in zip(tf.nest.flatten(result), tf.nest.flatten(values)):
            assert ours.dtype == expected.dtype
            assert ours.numpy().tolist() == expected.numpy().tolist()
    mark, nothing = ranges.start("x", ())
    assert ranges.end(mark, nothing) == ()


def test_start_and_end_keep_shapes_and_refuse_wrong_ranges(tool):
    @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([7], tf.int32)])
    def through(x, y):
        mark, (x, y) = ranges.start("x", (x, y))
        assert x.shape.as_list() == [None, 3]
        assert y.shape.as_list() == [7]
        return ranges.end(mark, y)

    assert through.get_concrete_function().structured_outputs.shape == [7]
    mark = ranges.Mark(tf.constant([1, 2], tf.int64), 0)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="rank 0"):
        tf.function(lambda: ranges.end(mark, tf.constant(1.0)))()


def test_end_effects_waits_for_stateful_operations(tool):
    """Also for a stateful operation without outputs that no result depends on."""
    variable, early = tf.Variable(1.0), tf.Variable(1.0)

    @tf.function
    def assign(x):
        early.assign(x)
        mark, x = ranges.start("x", x)
        variable.assign_add(x)
        ranges.end_effects(mark)
        return ranges.settle(tf.constant(1.0))

    graph = assign.get_concrete_function(tf.TensorSpec([])).graph
    (end,) = [op for op in graph.get_operations() if op.type == "Dlrm>NvtxRangeEnd"]
    waited_for = {operation.type for operation in end.control_inputs}
    assert "AssignAddVariableOp" in waited_for
    assert "AssignVariableOp" not in waited_for
    assert end in ancestors(graph.outputs[0].op)
    assign(tf.constant(2.0))
    assert variable.numpy() == 3.0


def test_gpu_kernels_take_range_numbers_in_host_memory():
    """Checks only the registration: no GPU runs here."""
    on_host = {
        "RangeStart": {"range"}, "RangeEnd": {"range", "over"}, "RangesOver": {"over"}
    }  # fmt: skip
    for name, expected in on_host.items():
        registered = kernels.get_registered_kernels_for_op(f"Dlrm>Nvtx{name}").kernel
        memory = {kernel.device_type: set(kernel.host_memory_arg) for kernel in registered}
        assert memory == {"CPU": set(), "GPU": expected}


def test_explain_missing_ranges_names_a_missing_tool(monkeypatch, tmp_path):
    class Native:
        @staticmethod
        def dlrm_nvtx_is_built():
            return 1

    monkeypatch.setattr(ranges, "_native", lambda: Native)
    tool = tmp_path / "libtool.so"
    monkeypatch.setenv("NVTX_INJECTION64_PATH", str(tool))
    assert f"NVTX_INJECTION64_PATH={tool}" in ranges.explain_missing_ranges()
    tool.touch()
    assert ranges.explain_missing_ranges() is None
    # dlopen searches the system's library path for a bare name.
    monkeypatch.setenv("NVTX_INJECTION64_PATH", "libtool.so")
    assert ranges.explain_missing_ranges() is None


@pytest.mark.parametrize("variable", ["NVTX_INJECTION64_PATH", "NSYS_PROFILING_SESSION_ID"])
def test_explain_missing_ranges_names_what_the_build_lacks(monkeypatch, variable):
    class WithoutNvtx:
        @staticmethod
        def dlrm_nvtx_is_built():
            return 0

    for native, missing in ((None, "native op library"), (WithoutNvtx, "nvToolsExt.h")):
        monkeypatch.setattr(ranges, "_native", lambda native=native: native)
        assert ranges.explain_missing_ranges() is None
        monkeypatch.setenv(variable, "1")
        assert variable in ranges.explain_missing_ranges()
        assert missing in ranges.explain_missing_ranges()
        monkeypatch.delenv(variable)
