"""Finds what a graph would copy between host and GPU, from requested devices and kernels.

An op that requests a GPU runs there if it has a GPU kernel for its types, else on the CPU. A tensor
is in GPU memory if an op on a GPU writes it and the kernel does not declare that output to be in
host memory; an op reads from GPU memory by the same rule. A tensor that is read on the other side
is copied. As in TensorFlow,

- constants are computed before the first step, and int32 ones are in host memory;
- ops without a device that use a variable are placed with it, identities prefer the GPU;
- a function keeps int32 arguments and results in host memory.
"""

import dataclasses

import tensorflow as tf

from tests.support.placement.gpu_kernels import GpuKernels

HOST, GPU = "host", "GPU"
# These kernels bring the size of their result to the host, and wait for it.
_WAITING = {"Where", "Unique", "UniqueV2", "UniqueWithCounts", "DynamicPartition"}
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
_BRANCHES = {"If", "StatelessIf", "While", "StatelessWhile", "Case", "StatelessCase"}
_SHAPES = {"Shape", "ShapeN", "Size", "Rank"}


@dataclasses.dataclass(frozen=True)
class Crossing:
    """A tensor that moves between host and GPU, or an op that waits for the GPU.

    Attributes:
        kind: "host to GPU", "GPU to host", "waits" or "no device".
        where: names of the producer and consumer.
        dtype: type of the tensor, or "".
    """

    kind: str
    where: str
    dtype: str = ""

    def __str__(self):
        return f"{self.kind}: {self.where} {self.dtype}".rstrip()


def attribute_types(op):
    """Returns {attribute: name of its dtype}."""
    values = {}
    for name, value in op.node_def.attr.items():
        if value.WhichOneof("value") == "type":
            values[name] = tf.as_dtype(value.type).name
    return values


def argument_names(op, arguments):
    """Returns, for each tensor of an op's inputs or outputs, the name of its argument."""
    names = []
    for argument in arguments:
        count = 1
        if argument.number_attr:
            count = op.get_attr(argument.number_attr)
        elif argument.type_list_attr:
            count = len(op.get_attr(argument.type_list_attr))
        names += [argument.name] * count
    return names


def is_constant(op, constants):
    """Returns whether TensorFlow computes an op before the first step.

    Args:
        op: the op.
        constants: names of the constant tensors of its graph.
    """
    if op.op_def.is_stateful or op.control_inputs:
        return False
    if op.type in _SHAPES:
        return all(tensor.shape.is_fully_defined() for tensor in op.inputs)
    return all(tensor.name in constants for tensor in op.inputs)


class _Walk:
    """Collects the crossings of a graph and of the functions that it calls."""

    def __init__(self):
        self.kernels = GpuKernels()
        self.found = []

    def walk(self, graph, places, prefix=""):
        """Returns the places of a graph's outputs; `places` are those of its inputs, by name."""
        constants = set()
        for op in graph.get_operations():
            if op.type in ("Placeholder", "NoOp"):
                continue
            given = [places[tensor.name] for tensor in op.inputs]
            if is_constant(op, constants):
                constants.update(tensor.name for tensor in op.outputs)
                device = GPU if "GPU" in op.device else HOST
                after = [HOST if t.dtype == tf.int32 else device for t in op.outputs]
            elif op.type in _CALLS:
                after = self._call(graph, op, prefix, given)
            else:
                after = self._run(op, prefix, given)
            places.update(zip((tensor.name for tensor in op.outputs), after))
        return [places[tensor.name] for tensor in graph.outputs]

    def _run(self, op, prefix, given):
        """Records the crossings of an op's inputs; returns the places of its outputs."""
        name, device = f"{prefix}{op.name}", op.device
        if not device:
            uses_variable = any(tensor.dtype == tf.resource for tensor in op.inputs)
            if op.type != "Identity" and not uses_variable:
                self.found.append(Crossing("no device", name))
            device = "GPU:0"
        if op.type in _BRANCHES:
            # The condition decides on the host.
            self._read(op, name, given, [HOST, *given[1:]])
            return [GPU if "GPU" in device else HOST] * len(op.outputs)
        kernel = None
        if "GPU" in device:
            kernel = self.kernels.host_arguments(op.type, attribute_types(op))
        if kernel is None:
            self._read(op, name, given, [HOST] * len(given))
            return [HOST] * len(op.outputs)
        if op.type in _WAITING:
            self.found.append(Crossing("waits", name))
        inputs = argument_names(op, op.op_def.input_arg)
        self._read(op, name, given, [HOST if argument in kernel else GPU for argument in inputs])
        outputs = argument_names(op, op.op_def.output_arg)
        return [HOST if argument in kernel else GPU for argument in outputs]

    def _read(self, op, name, given, wanted):
        for tensor, at, to in zip(op.inputs, given, wanted):
            # Handles are always in host memory.
            if at != to and tensor.dtype != tf.resource:
                self.found.append(
                    Crossing(f"{at} to {to}", f"{tensor.name} -> {name}", tensor.dtype.name)
                )

    def _call(self, graph, op, prefix, given):
        name = f"{prefix}{op.name}"
        if op.node_def.attr["_XlaMustCompile"].b and "GPU" in op.device:
            # int32 values are axes and shapes, which the compiler reads on the host in every step.
            wanted = [HOST if tensor.dtype == tf.int32 else GPU for tensor in op.inputs]
            self._read(op, name, given, wanted)
            return [GPU] * len(op.outputs)
        inner = graph._get_function(op.get_attr("f").name).graph
        places = dict(zip((tensor.name for tensor in inner.inputs), given))
        return self.walk(inner, places, f"{name}/")


def crossings(graph, on_gpu):
    """Returns the `Crossing`s of one call of a function.

    Args:
        graph: the function's FuncGraph.
        on_gpu: dtypes of the arguments that are in GPU memory.
    """
    walk = _Walk()
    places = {t.name: GPU if t.dtype in on_gpu else HOST for t in graph.inputs}
    results = walk.walk(graph, places)
    for tensor, place in zip(graph.outputs, results):
        if place == GPU and tensor.dtype in (tf.int32, tf.string):
            where = f"{tensor.name} -> result"
            walk.found.append(Crossing("GPU to host", where, tensor.dtype.name))
    return walk.found
