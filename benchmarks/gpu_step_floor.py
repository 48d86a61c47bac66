"""The least time of a step's phases, from the limits that the same run measures.

A phase takes at least its bytes at the rate of a large copy and its matrix products at the rate of
a large product, and the larger of the two; a step at least the sum of its phases, because each
phase needs most of the device. Bytes: inputs once, outputs once, each distinct row once, and once
more if it is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Work(NamedTuple):
    """The work of a phase.

    Attributes:
        bytes: read and written, at least.
        flop: floating-point operations of matrix products.
    """

    bytes: float
    flop: float = 0.0


class Limits(NamedTuple):
    """Measured limits of a device.

    Attributes:
        copy_bytes_per_s: bytes read plus written per second of a large copy.
        flop_per_s: rate of a large matrix product in the step's precision.
    """

    copy_bytes_per_s: float
    flop_per_s: float

    def milliseconds(self, work: Work) -> float:
        """Returns the least time of some work."""
        return 1e3 * max(work.bytes / self.copy_bytes_per_s, work.flop / self.flop_per_s)


def mlp_work(
    batch: int, widths: Sequence[int], element: int, input_gradient: bool
) -> tuple[Work, Work]:
    """Returns the work of an MLP, forward and backward.

    Args:
        batch: number of samples.
        widths: of the input and of each layer.
        element: bytes of an activation; weights and their gradients have 4.
        input_gradient: whether the gradient of the input is computed.
    """
    products = [2.0 * batch * a * b for a, b in zip(widths, widths[1:])]
    weights = 4.0 * sum((a + 1) * b for a, b in zip(widths, widths[1:]))
    inputs, outputs = sum(widths[:-1]), sum(widths[1:])
    forward = Work(batch * element * (inputs + outputs) + weights, sum(products))
    gradients = inputs - (0 if input_gradient else widths[0])
    # Products per layer: gradient of the weights, and of the input.
    flop = 2 * sum(products) - (0 if input_gradient else products[0])
    return forward, Work(batch * element * (inputs + outputs + gradients) + 2 * weights, flop)


def step_work(
    batch: int, tables: int, dim: int, distinct_rows: float, bottom: Sequence[int],
    top: Sequence[int], element: int,
) -> dict[str, Work]:  # fmt: skip
    """Returns {phase of `gpu_step_phases.Step`: its work}.

    Args:
        batch: number of samples.
        tables: T.
        dim: D.
        distinct_rows: mean number of distinct rows of a batch.
        bottom: widths of the bottom MLP, its input's first.
        top: widths of the top MLP, its input's first; the last is 1.
        element: bytes of an activation or vector.
    """
    ids, vectors = 4.0 * batch * tables, float(element) * batch * tables * dim
    rows = 4.0 * dim * distinct_rows
    features, output = vectors + element * batch * dim, float(element) * batch * top[0]
    bottom_work = mlp_work(batch, bottom, element, input_gradient=False)
    top_work = mlp_work(batch, top[:-1], element, input_gradient=True)
    parameters = sum((a + 1) * b for widths in (bottom, top) for a, b in zip(widths, widths[1:]))
    return {
        "lookup": Work(ids + vectors + rows),
        "bottom forward": bottom_work[0],
        "interaction forward": Work(features + output),
        "top forward": top_work[0],
        # The last layer is part of it: its input is read, and its input's gradient written.
        "loss": Work(batch * (2.0 * element * top[-2] + 4)),
        "top backward": top_work[1],
        "interaction backward": Work(2 * features + output),
        "row update": Work(ids + vectors + 2 * rows),
        "bottom backward": bottom_work[1],
        "dense update": Work(3 * 4.0 * parameters),
    }


def floors(limits: Limits, work: dict[str, Work]) -> dict[str, float]:
    """Returns {phase: least milliseconds}, with the sum as "step"."""
    found = {phase: limits.milliseconds(one) for phase, one in work.items()}
    return {**found, "step": sum(found.values())}
