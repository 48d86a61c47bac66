"""Ops that mark ranges hand their inputs on as they are, and say why where there are none."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from ops.nvtx import ranges
from tests.support.ops.graphs import ancestors


@pytest.fixture
def heard(monkeypatch):
    """Makes ranges although no tool listens: the ops' calls of NVTX then do nothing."""
    monkeypatch.setattr(ranges, "listening", lambda: True)


def ops_of(concrete):
    return [operation.type for operation in concrete.graph.get_operations()]


def test_nobody_listens_and_nothing_is_added():
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


def test_any_types_pass_unchanged(heard):
    generator = np.random.default_rng()
    values = {
        "float": tf.constant(generator.normal(size=(3, 4)), tf.float32),
        "others": [
            tf.constant(generator.integers(0, 99, 5), tf.int32),
            tf.constant(["a", "b"]),
            tf.cast(generator.normal(size=2), tf.bfloat16),
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


def test_shapes_are_kept_and_wrong_numbers_refused(heard):
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


def test_a_range_ends_after_what_has_an_effect(heard):
    """Also after an effect that returns nothing and that no result needs."""
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


def test_a_gradient_is_never_lost_in_silence(heard):
    x = tf.constant(3.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ranges.start("x", x)[1] ** 2
    with pytest.raises(LookupError, match="NvtxRangeStart"):
        tape.gradient(y, x)


def test_a_gpu_has_them_too_with_the_number_in_host_memory():
    """Only that they are registered: no GPU runs here."""
    on_host = {
        "RangeStart": {"range"}, "RangeEnd": {"range", "over"}, "RangesOver": {"over"}
    }  # fmt: skip
    for name, expected in on_host.items():
        registered = kernels.get_registered_kernels_for_op(f"Dlrm>Nvtx{name}").kernel
        memory = {kernel.device_type: set(kernel.host_memory_arg) for kernel in registered}
        assert memory == {"CPU": set(), "GPU": expected}


def test_says_that_the_tool_is_not_there(monkeypatch, tmp_path):
    class Native:
        @staticmethod
        def dlrm_nvtx_is_built():
            return 1

    monkeypatch.setattr(ranges, "_native", lambda: Native)
    tool = tmp_path / "libtool.so"
    monkeypatch.setenv("NVTX_INJECTION64_PATH", str(tool))
    assert f"NVTX_INJECTION64_PATH={tool}: there is no such file" in ranges.unheard()
    tool.touch()
    assert ranges.unheard() is None
    # A bare name is looked for where the system's libraries are.
    monkeypatch.setenv("NVTX_INJECTION64_PATH", "libtool.so")
    assert ranges.unheard() is None


@pytest.mark.parametrize("variable", ["NVTX_INJECTION64_PATH", "NSYS_PROFILING_SESSION_ID"])
def test_says_why_a_tool_hears_nothing(monkeypatch, variable):
    class WithoutNvtx:
        @staticmethod
        def dlrm_nvtx_is_built():
            return 0

    for native, told in ((None, "without the native op library"), (WithoutNvtx, "nvToolsExt.h")):
        monkeypatch.setattr(ranges, "_native", lambda native=native: native)
        assert ranges.unheard() is None
        monkeypatch.setenv(variable, "1")
        assert variable in ranges.unheard()
        assert told in ranges.unheard()
        monkeypatch.delenv(variable)
