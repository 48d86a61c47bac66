"""Predict the time of a training step from counted work and the constants of `planner.hardware`.

Each phase of a step is one or more terms of work / rate; phases follow each other, as in the
programs whose published rates the constants were checked against. docs/placement.md has the
comparison and says where the model is wrong.
"""

from __future__ import annotations

import dataclasses
import math

from model.embedding.placement import Placement
from planner.hardware import DEVICES, REACHED, SOFTWARE, Device, Software
from planner.workload import (
    VALUE_BYTES,
    ModelShape,
    StepCounts,
    count_step,
    expected_unique_fraction,
)

# Exponent of the ids' power law where nothing measured is given: the default of the synthetic
# benchmarks of NVIDIA's distributed-embeddings (their flag alpha).
ID_EXPONENT = 1.05


@dataclasses.dataclass(frozen=True)
class Phase:
    """One term of a step.

    Attributes:
      name: what is done.
      bound: what limits it: `arithmetic`, `memory`, `exchange`, `all-reduce`, `input`, `overhead`.
      amount: operations or bytes on the busiest rank (0 for a pure delay).
      seconds: its time.
      hidden: it runs beside other phases and does not lengthen the step by itself.
    """

    name: str
    bound: str
    amount: float
    seconds: float
    hidden: bool = False


@dataclasses.dataclass(frozen=True)
class StepCost:
    """A predicted training step.

    Attributes:
      phases: its `Phase`s in order.
      counts: what they do.
      seconds: time of the step.
      global_batch: B.
      unique_fraction: share of unique ids that was assumed (1 without compress).
    """

    phases: tuple[Phase, ...]
    counts: StepCounts
    seconds: float
    global_batch: int
    unique_fraction: float

    @property
    def samples_per_second(self) -> float:
        """Global batch over the step's time."""
        return self.global_batch / self.seconds

    @property
    def bounds(self) -> dict[str, float]:
        """Seconds by bound, the longest first."""
        totals = {}
        for phase in self.phases:
            totals[phase.bound] = totals.get(phase.bound, 0.0) + phase.seconds
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    @property
    def bound(self) -> str:
        """The bound that takes the largest part of the step."""
        return next(iter(self.bounds))


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How a model is trained, as far as the time of a step depends on it.

    Attributes:
      device: a name in `planner.hardware.DEVICES`, or a `Device`.
      global_batch: B, which the ranks divide.
      precision: `fp32`, `tf32`, `fp16` or `bf16`.
      compress: duplicate ids are removed before they and their vectors travel.
      software: a name in `planner.hardware.SOFTWARE`, or a `Software`.
      unique_fraction: with compress, unique ids of a local batch over all its ids as measured;
        None assumes a power law with exponent `ID_EXPONENT`.
      row_imbalance: see `planner.workload.count_step`; 1 takes the ids of row-wise tables to be
        spread evenly.
      per_table_files: see `planner.workload.count_step`.
      network_bandwidth: bytes per second between nodes, per rank; None: the device's.
    """

    device: str | Device
    global_batch: int
    precision: str
    compress: bool = False
    software: str | Software = "tensorflow"
    unique_fraction: float | None = None
    row_imbalance: float = 1.0
    per_table_files: bool = True
    network_bandwidth: float | None = None


def predict(shape: ModelShape, placement: Placement, run: RunConfig) -> StepCost:
    """Predict one training step.

    Args:
      shape: the model.
      placement: of its tables, on the ranks of the run.
      run: how it is trained.

    Raises:
      ValueError: for a name that is not in the tables, or sizes that do not fit together.
    """
    device = _look_up(DEVICES, run.device, "device")
    software = _look_up(SOFTWARE, run.software, "software")
    _look_up(device.matrix_rates, run.precision, f"precision of {device.name}")
    ranks, unique_fraction = placement.ranks, run.unique_fraction
    if not run.compress:
        unique_fraction = 1.0
    elif unique_fraction is None:
        local = max(1, run.global_batch // ranks)
        unique_fraction = expected_unique_fraction(shape.vocab_sizes, local, ID_EXPONENT)
    elif not 0 < unique_fraction <= 1:
        raise ValueError(f"unique_fraction is {unique_fraction}, expected above 0 and at most 1")
    if not 1 <= run.row_imbalance <= ranks:
        raise ValueError(f"row_imbalance is {run.row_imbalance}, expected 1 to the ranks, {ranks}")
    counts = count_step(
        shape,
        placement,
        run.global_batch,
        run.precision,
        unique_fraction=unique_fraction,
        row_imbalance=run.row_imbalance,
        per_table_files=run.per_table_files,
        gradient_bytes=4 if VALUE_BYTES[run.precision] == 4 else software.gradient_bytes,
    )
    rates = _Rates(device, ranks, run.precision, run.network_bandwidth)
    phases = _phases(counts, rates, software)
    return StepCost(
        phases=phases,
        counts=counts,
        seconds=_step_seconds(phases, software),
        global_batch=run.global_batch,
        unique_fraction=unique_fraction,
    )


class _Rates:
    """Seconds that an amount of work takes on a device."""

    def __init__(self, device, ranks, precision, network_bandwidth):
        reached = dict.fromkeys(REACHED, 1.0) if device.measured else REACHED
        self.matrix = device.matrix_rates[precision] * reached[precision]
        self.bandwidth = device.memory_bandwidth * reached["memory"]
        self.host = device.host_bandwidth * reached["host"]
        self.device, self.ranks = device, ranks
        self.node = min(ranks, device.ranks_per_node)  # ranks in a node
        self.network = network_bandwidth or device.network_bandwidth

    def exchange(self, amount):
        """All-to-all of `amount` bytes of one rank, its own part included."""
        inside = amount * (self.node - 1) / self.ranks / self.device.alltoall_bandwidth
        outside = amount * (self.ranks - self.node) / self.ranks / self.network
        return max(inside, outside) + self.device.exchange_latency

    def allreduce(self, amount):
        """Ring within each node, then rings between the nodes, one for each rank of a node."""
        inside = 2 * amount * (self.node - 1) / self.node / self.device.allreduce_bandwidth
        nodes = math.ceil(self.ranks / self.node)
        outside = 2 * amount / self.node * (nodes - 1) / nodes / self.network
        return inside + outside + self.device.exchange_latency


def _phases(counts, rates, software):
    phases = [
        Phase(
            "read input", "input", counts.input_bytes, counts.input_bytes / rates.host, hidden=True
        )
    ]

    def memory(name, amount):
        if amount:
            phases.append(Phase(name, "memory", amount, amount / rates.bandwidth))

    def exchange(name, amount):
        if amount:
            phases.append(Phase(name, "exchange", amount, rates.exchange(amount)))

    exchange("exchange ids", counts.id_bytes)
    memory("lookup", counts.lookup_bytes)
    exchange("exchange vectors", counts.vector_bytes)
    memory("reorder vectors", counts.reorder_bytes)
    memory("interaction", counts.interaction_bytes)
    phases.append(
        Phase(
            "MLP and interaction arithmetic",
            "arithmetic",
            counts.matrix_flops,
            counts.matrix_flops / rates.matrix,
        )
    )
    memory("MLP activations", counts.mlp_bytes)
    exchange("exchange gradients of vectors", counts.vector_bytes)
    memory("update rows", counts.update_bytes)
    if counts.allreduce_bytes:
        amount = counts.allreduce_bytes
        phases.append(
            Phase("all-reduce dense gradients", "all-reduce", amount, rates.allreduce(amount))
        )
    phases.append(Phase("step overhead", "overhead", 0, software.step_overhead))
    return tuple(phases)


def _step_seconds(phases, software):
    visible = [phase for phase in phases if not phase.hidden]
    serial = sum(phase.seconds for phase in visible)
    if software.overlaps_exchange:
        travel = sum(p.seconds for p in visible if p.bound in ("exchange", "all-reduce"))
        serial = max(serial - travel, travel + software.step_overhead)
    return max([serial, *(phase.seconds for phase in phases if phase.hidden)])


def _look_up(table, name, what):
    if not isinstance(name, str):
        return name
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}, expected one of {', '.join(table)}")
    return table[name]
