"""Finds what a graph would copy between host and GPU, from requested devices and kernels.

An op that requests a GPU runs there if it has a GPU kernel for its types, else on the CPU. A tensor
is in GPU memory if an op on a GPU writes it and the kernel does not declare that output to be in
host memory; an op reads from GPU memory by the same rule. A tensor that is read on the other side
is a copy. A function keeps int32 arguments and results in host memory.
"""

import dataclasses

import tensorflow as tf

from tests.support.placement.gpu_kernels import GpuKernels

HOST, GPU = "host", "GPU"
# These kernels bring the size of their result to the host, and wait for it.
_WAITING = {"Where", "Unique", "UniqueV2", "UniqueWithCounts", "DynamicPartition"}
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_BRANCHES = ("If", "StatelessIf", "While", "StatelessWhile", "Case", "StatelessCase")


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


def _types(op):
    """Returns {attribute: name of its dtype}."""
    values = {}
    for attribute in op.node_def.attr:
        value = op.node_def.attr[attribute]
        if value.WhichOneof("value") == "type":
            values[attribute] = tf.as_dtype(value.type).name
    return values


def _argument_names(op, arguments, tensors):
    """Returns the name of the argument that each tensor belongs to."""
    names = []
    for argument in arguments:
        count = 1
        if argument.number_attr:
            count = op.get_attr(argument.number_attr)
        elif argument.type_list_attr:
            count = len(op.get_attr(argument.type_list_attr))
        names += [argument.name] * count
    assert len(names) == len(tensors), (op.name, names)
    return names


class Graph:
    """Walks a function's graph.

    Args:
        graph: a FuncGraph whose ops request devices.
        on_gpu: function from an input tensor's name to whether it is in GPU memory.
    """

    def __init__(self, graph, on_gpu):
        self._graph, self._kernels = graph, GpuKernels()
        self._on_gpu = on_gpu
        self._found = []

    def crossings(self):
        """Returns the `Crossing`s."""
        places = {
            tensor.name: GPU if self._on_gpu(tensor.name) else HOST for tensor in self._graph.inputs
        }
        results = self._walk(self._graph, places, "")
        for tensor, place in zip(self._graph.outputs, results):
            self._check_result(tensor, place)
        return self._found

    def _check_result(self, tensor, place):
        on_host = tensor.dtype in (tf.int32, tf.string, tf.resource)
        if place == GPU and on_host:
            self._found.append(Crossing("GPU to host", f"{tensor.name} -> result", tensor.dtype.name))

    def _walk(self, graph, places, prefix):
        """Returns the places of a graph's outputs, given those of its inputs."""
        for op in graph.get_operations():
            if op.type in ("Placeholder", "NoOp"):
                continue
            name = f"{prefix}{op.name}"
            given = [places[tensor.name] for tensor in op.inputs]
            for tensor, place in zip(op.outputs, self._run(graph, op, name, given, prefix)):
                places[tensor.name] = place
        return [places[tensor.name] for tensor in graph.outputs]

    def _run(self, graph, op, name, given, prefix):
        """Records the crossings of an op's inputs; returns the places of its outputs."""
        if op.type in _CALLS:
            return self._call(graph, op, name, given)
        # TensorFlow adds identities of a function's results, without a device. Its placer prefers a
        # GPU, but has more rules for other ops.
        if not op.device and op.type != "Identity":
            self._found.append(Crossing("no device", name))
        kernel = None
        if "GPU" in op.device or not op.device:
            kernel = self._kernels.host_arguments(op.type, _types(op))
        if op.type in _BRANCHES:
            # The condition decides on the host.
            self._read(op, name, given, [HOST if i == 0 else g for i, g in enumerate(given)])
            return [GPU if "GPU" in op.device else HOST] * len(op.outputs)
        if kernel is None:  # no GPU was requested, or there is no kernel
            self._read(op, name, given, [HOST] * len(given))
            return [HOST] * len(op.outputs)
        if op.type in _WAITING:
            self._found.append(Crossing("waits", name))
        inputs = _argument_names(op, op.op_def.input_arg, op.inputs)
        outputs = _argument_names(op, op.op_def.output_arg, op.outputs)
        self._read(op, name, given, [HOST if n in kernel else GPU for n in inputs])
        return [HOST if n in kernel else GPU for n in outputs]

    def _read(self, op, name, given, wanted):
        for tensor, at, to in zip(op.inputs, given, wanted):
            # A handle is always in host memory.
            if at != to and tensor.dtype != tf.resource:
                self._found.append(
                    Crossing(f"{at} to {to}", f"{tensor.name} -> {name}", tensor.dtype.name)
                )

    def _call(self, graph, op, name, given):
        function = op.get_attr("f").name
        body = graph._get_function(function)
        if body is None:
            body = tf.compat.v1.get_default_graph()._get_function(function)
        inner = body.graph
        compiled = "_XlaMustCompile" in body.cached_definition.attr if hasattr(
            body, "cached_definition") else False
        if compiled:
            self._read(op, name, given, [HOST if t.dtype == tf.int32 else GPU for t in op.inputs])
            return [GPU] * len(op.outputs)
        places = {tensor.name: place for tensor, place in zip(inner.inputs, given)}
        return self._walk(inner, places, f"{name}/")


def crossings(graph, on_gpu=lambda name: False):
    """Returns the copies between host and GPU in a FuncGraph; see `Graph`."""
    return Graph(graph, on_gpu).crossings()
