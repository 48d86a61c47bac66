"""Phases of a step as data, and how one of them runs: with its device and its NVTX range.

A phase reads named values and gives names to what it returns; whoever has the list of phases
decides whether they run in one `tf.function` or each by itself.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable

import tensorflow as tf

from model.embedding.interface import ExchangePlan
from ops.nvtx import ranges

# Names of phases, as tools show them; --step_breakdown counts reading with the loop.
READ = "read"
EXCHANGE_IDS = "exchange ids"
LOOKUP = "lookup"
EXCHANGE_VECTORS = "exchange vectors"
DENSE = "dense forward and backward"
AVERAGE = "average dense gradients"
UPDATE_DENSE = "update dense"
EXCHANGE_GRADIENTS = "exchange gradients"
UPDATE_ROWS = "update rows"
DENSE_FORWARD = "dense forward"  # of evaluation and inference

# Where a phase runs. Batches come from the host, and so do their ids.
HOST = "CPU:0"
ACCELERATOR = None  # TensorFlow's own choice: a GPU where there is one and the op runs on it


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a step.

    Attributes:
        name: also of its NVTX range.
        run: function from the values of `inputs` to a tuple of those of `outputs`.
        inputs: names of the values that it takes.
        outputs: names of the values that it returns; none: it has only effects.
        waits_for: the range starts when this input is ready; default: the first.
        early: outputs that later phases may use before the whole phase has ended.
        device: `HOST` or `ACCELERATOR`.
    """

    name: str
    run: Callable[..., tuple]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    waits_for: str | None = None
    early: tuple[str, ...] = ()
    device: str | None = ACCELERATOR

    def run_on_device(self, *inputs: Any) -> tuple:
        """Returns the outputs for inputs in their order, without a range."""
        with tf.device(self.device):
            return self.run(*inputs)

    def __call__(self, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the outputs by name, without a range."""
        results = self.run_on_device(*(values[name] for name in self.inputs))
        return dict(zip(self.outputs, results))


def run_with_ranges(phases: tuple[Phase, ...], values: dict[str, Any]) -> dict[str, Any]:
    """Runs phases in a graph, each within its NVTX range; returns all values.

    The ranges change nothing about which operations may overlap.

    Args:
        phases: in their order.
        values: {name: value} of what the phases do not make themselves.
    """
    values = dict(values)
    for phase in phases:
        if ranges.listening():
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
    """Starts a range when a value is there; returns (its mark, the value that is within it)."""
    # Of a plan, the lookup takes the ids first; the rest is for later phases, on other devices.
    main = value.ids if isinstance(value, ExchangePlan) else value
    tensors = _tensors(main)
    if not tensors:  # SOK's rows are no tensors: its lookup has exchanged the vectors too
        return None, value
    mark, tensors = ranges.start(name, tensors)
    main = _with_tensors(main, tensors)
    return mark, value._replace(ids=main) if isinstance(value, ExchangePlan) else main


def _end(mark, outputs):
    """Ends a range when all outputs are there; returns the outputs of then."""
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
    """Returns a structure with these in place of its tensors, other values as they were."""
    rest = iter(tensors)
    flat = tf.nest.flatten(structure, expand_composites=True)
    flat = [next(rest) if tf.is_tensor(value) else value for value in flat]
    return tf.nest.pack_sequence_as(structure, flat, expand_composites=True)
