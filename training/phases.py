"""Describes the phases of a step and runs them on their devices, with NVTX ranges.

A phase reads named values and returns named values. The caller decides whether to run a list of
phases in one `tf.function` or separately.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable

import tensorflow as tf

from model.embedding.interface import ExchangePlan
from ops.nvtx import ranges

# Names of phases in tools; --step_breakdown includes reading in "read and loop".
READ = "read"
EXCHANGE_IDS = "exchange ids"
UPLOAD = "upload batch"
RECEIVE = "receive batch"
LOOKUP = "lookup"
EXCHANGE_VECTORS = "exchange vectors"
DENSE = "dense forward and backward"
BOTTOM_BACKWARD = "bottom MLP backward"  # with fused MLPs on a GPU; else part of the phase before
AVERAGE = "average dense gradients"
UPDATE_DENSE = "update dense"
EXCHANGE_GRADIENTS = "exchange gradients"
UPDATE_ROWS = "update rows"
JOIN_UPDATE = "join update of rows"
DENSE_FORWARD = "dense forward"  # of evaluation and inference

# Device of phases that work on host memory: batches as they are read, and their ids.
HOST = "CPU:0"


def accelerator() -> str | None:
    """Returns the name of this process's GPU, or None: without one everything runs on the CPU."""
    return "GPU:0" if tf.config.list_logical_devices("GPU") else None


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a step.

    Attributes:
        name: name of the phase and of its NVTX range.
        run: function from the values of `inputs` to a tuple of the values of `outputs`.
        inputs: names of the input values.
        outputs: names of the returned values; empty: the phase only has side effects.
        waits_for: the input whose arrival starts the range; default: the first.
        early: outputs that later phases may use before the phase has ended.
        after: names of values before which TensorFlow executes none of the phase's operations. On
            a GPU this is the order of launches: `run` need not wait for the values.
        device: name of the device, e.g. `HOST`; None: TensorFlow chooses.
    """

    name: str
    run: Callable[..., tuple]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    waits_for: str | None = None
    early: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    device: str | None = None

    def run_on_device(self, *inputs: Any) -> tuple:
        """Returns the outputs for inputs in order, without an NVTX range."""
        with tf.device(self.device):
            return self.run(*inputs)

    def __call__(self, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the outputs by name, without an NVTX range."""
        with tf.control_dependencies([values[name] for name in self.after]):
            results = self.run_on_device(*(values[name] for name in self.inputs))
        return dict(zip(self.outputs, results))


def run_with_ranges(phases: tuple[Phase, ...], values: dict[str, Any]) -> dict[str, Any]:
    """Runs phases in a graph, each in an NVTX range; returns all values by name.

    The ranges do not change which operations may overlap.

    Args:
        phases: the phases in order.
        values: {name: value} of the inputs that no phase returns.
    """
    values = dict(values)
    for phase in phases:
        if ranges.is_tool_attached():
            values.update(_in_range(phase, values))
        else:
            values.update(phase(values))
    return values


def _in_range(phase, values):
    name = phase.waits_for or phase.inputs[0]
    with tf.device(phase.device):
        mark, started = _start(phase.name, values[name])
    outputs = phase({**values, name: started})
    if not phase.outputs:
        ranges.end_effects(mark)
        return outputs
    with tf.device(phase.device):
        ended = _end(mark, outputs)
    return {name: outputs[name] if name in phase.early else ended[name] for name in outputs}


def _start(name, value):
    """Starts a range when a value is ready; returns (mark of the range, the value inside it)."""
    # The lookup uses only the ids of a plan; the rest is for later phases on other devices.
    main = value.ids if isinstance(value, ExchangePlan) else value
    tensors = _tensors(main)
    if not tensors:  # SOK's lookup also exchanges the vectors, and returns no rows
        return None, value
    mark, tensors = ranges.start(name, tensors)
    main = _with_tensors(main, tensors)
    return mark, value._replace(ids=main) if isinstance(value, ExchangePlan) else main


def _end(mark, outputs):
    """Ends a range when all outputs are ready; returns the outputs."""
    main = {k: v.ids if isinstance(v, ExchangePlan) else v for k, v in outputs.items()}
    tensors = _tensors(main)
    if not tensors:
        ranges.end_effects(mark)
        return outputs
    ended = _with_tensors(main, ranges.end(mark, tensors))
    return {
        k: v._replace(ids=ended[k]) if isinstance(v, ExchangePlan) else ended[k]
        for k, v in outputs.items()
    }


def _tensors(structure):
    flat = tf.nest.flatten(structure, expand_composites=True)
    return [value for value in flat if tf.is_tensor(value)]


def _with_tensors(structure, tensors):
    """Returns a structure with its tensors replaced, and other values unchanged."""
    rest = iter(tensors)
    flat = tf.nest.flatten(structure, expand_composites=True)
    flat = [next(rest) if tf.is_tensor(value) else value for value in flat]
    return tf.nest.pack_sequence_as(structure, flat, expand_composites=True)
