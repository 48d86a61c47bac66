"""Counts the nodes that TensorFlow executes for a graph, and the kernels they launch on the GPU."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tests.support.placement.crossings import argument_names, attribute_types, is_constant
from tests.support.placement.gpu_kernels import GpuKernels

# Neither computed in each step nor given to an executor's thread.
_FREE = {"Placeholder", "NoOp", "Identity", "Const"}
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
# Ops of TensorFlow that only pass memory on, or do their work on the host.
_WITHOUT_KERNEL = {
    "Reshape", "ExpandDims", "Squeeze", "Bitcast", "IdentityN", "ReadVariableOp",
    "PlaceholderWithDefault", "Shape", "Size", "Rank",
}  # fmt: skip


def _first_element(op):
    """Whether a StridedSlice begins at 0 of the only axis: its result is then the same memory."""
    begin = tf.get_static_value(op.inputs[1])
    return op.inputs[0].shape.rank == 1 and begin is not None and not begin.any()


class Launches(NamedTuple):
    """What an op of the project starts on a GPU.

    Attributes:
        kernels: kernels of the project.
        products: products of cuBLASLt, one kernel each.
        memory: copies and fills.
    """

    kernels: int
    products: int = 0
    memory: int = 0


def _mlp_forward(op):
    # The copy of weights and input; a product per layer, with bias, ReLU and its bits.
    return Launches(1, products=op.get_attr("N"))


def _mlp_backward(op):
    # The products of weights and inputs, a mask, and a copy if the rows of x are padded.
    x = op.inputs[2]
    padded = x.shape[1] * x.dtype.size % 16 != 0
    products = 2 * op.get_attr("N") - (not op.get_attr("input_gradient"))
    return Launches(op.get_attr("last_relu") + padded, products)


def _embedding_update(op):
    if op.get_attr("optimizer") == b"sgd" and not op.get_attr("deterministic"):
        # With both large and small tables: marks cleared, marks of the large tables, their rows,
        # rows of the small tables.
        return Launches(3, memory=1)
    return Launches(7, memory=1)  # about: a radix sort, the rows, rows with many gradients


def _embedding_bag_update(op):
    # Factors of bags that are pooled by the mean; keys of ids that are in no bag.
    mean = zip(op.get_attr("mean"), op.get_attr("hotness"))
    further = Launches(any(m and ids > 1 for m, ids in mean), memory=not op.get_attr("hotness"))
    if op.get_attr("optimizer") == b"sgd" and not op.get_attr("deterministic"):
        # Rows and places of ids, marks cleared, marks, rows.
        return Launches(3 + further.kernels, memory=1 + further.memory)
    return Launches(7 + further.kernels, memory=1 + further.memory)  # about, as above


#: {op of the project: function from a node to its `Launches`}
LAUNCHES: dict[str, Callable[[tf.Operation], Launches]] = {
    "Dlrm>MlpForward": _mlp_forward,
    "Dlrm>MlpBackward": _mlp_backward,
    "Dlrm>LogLoss": lambda op: Launches(2),
    "Dlrm>AllFinite": lambda op: Launches(1, memory=1),
    "Dlrm>DenseUpdate": lambda op: Launches(2),
    "Dlrm>RecordLoss": lambda op: Launches(1),
    "Dlrm>DotInteraction": lambda op: Launches(1),
    "Dlrm>DotInteractionGrad": lambda op: Launches(1),
    "Dlrm>DotInteractionSplit": lambda op: Launches(1),
    "Dlrm>DotInteractionSplitGrad": lambda op: Launches(1),
    "Dlrm>EmbeddingLookup": lambda op: Launches(1),
    "Dlrm>EmbeddingUpdate": _embedding_update,
    "Dlrm>EmbeddingBagLookup": lambda op: Launches(1),
    "Dlrm>EmbeddingBagUpdate": _embedding_bag_update,
    "Dlrm>ScalarsOnDevice": lambda op: Launches(1),
    "Dlrm>ReceiveBatch": lambda op: Launches(0),
    "Dlrm>JoinSideStream": lambda op: Launches(0),  # a stream waits for another
    "Dlrm>UploadBatch": lambda op: Launches(0),  # one copy, on a stream of its own
}


@dataclasses.dataclass
class Executed:
    """What one call of a function executes.

    Attributes:
        nodes: {type of op: number of nodes}.
        kernels: {type of op: number of kernels that its nodes launch on the GPU}. A product of
            cuBLASLt, a copy and a fill count as one.
        own: number of kernels of the project.
    """

    nodes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    kernels: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    own: int = 0

    def __str__(self):
        def listed(counts):
            parts = ", ".join(f"{count} {name}" for name, count in counts.most_common() if count)
            return f"{counts.total()} ({parts})"

        return f"nodes: {listed(self.nodes)}; kernels: {listed(self.kernels)}"


def executed(graph):
    """Returns what a call of a function executes, the functions that it calls included.

    Not counted: constants and what is computed from them, arguments, no-ops, identities, and what
    no result and no effect depends on.

    Args:
        graph: the function's FuncGraph.

    Raises:
        ValueError: the graph has a function that XLA compiles, or a loop.
    """
    found = Executed()
    _count(graph, GpuKernels(), found)
    return found


def _count(graph, kernels, found):
    used, constants = _used(graph), set()
    for op in graph.get_operations():
        if op not in used or op.type in _FREE:
            if op.type == "Const":
                constants.add(op.outputs[0].name)
            continue
        if is_constant(op, constants):
            constants.update(tensor.name for tensor in op.outputs)
        elif op.type in _CALLS:
            if op.node_def.attr["_XlaMustCompile"].b:
                raise ValueError(f"{op.name}: compiled by XLA into kernels that are not known here")
            _count(graph._get_function(op.get_attr("f").name).graph, kernels, found)
        else:
            found.nodes[op.type] += 1
            if op.type in LAUNCHES:
                launches = LAUNCHES[op.type](op)
                found.own += launches.kernels
                found.kernels[op.type] += sum(launches)
            else:
                found.kernels[op.type] += _launches_a_kernel(op, kernels)


def _used(graph):
    """Returns the ops that a result or an effect depends on."""
    left = [*(tensor.op for tensor in graph.outputs), *graph.control_outputs]
    used = set()
    while left:
        op = left.pop()
        if op not in used:
            used.add(op)
            left += [*op.control_inputs, *(tensor.op for tensor in op.inputs)]
    return used


def _launches_a_kernel(op, kernels):
    """Whether a node of TensorFlow launches a kernel."""
    if op.type in _WITHOUT_KERNEL or "CPU" in op.device:
        return False
    if op.type == "StridedSlice" and _first_element(op):
        return False
    host = kernels.host_arguments(op.type, attribute_types(op))
    outputs = argument_names(op, op.op_def.output_arg)
    computes_on_host = host is None or (outputs and all(name in host for name in outputs))
    return not computes_on_host
