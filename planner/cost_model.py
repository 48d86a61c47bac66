"""Predict the time of a training step from counted work and the constants of `planner.hardware`.

Each phase of a step is one or more terms work / rate. Phases run one after another, as in the
programs whose published rates validate the constants. docs/placement.md compares predictions with
published rates and lists where the model is wrong.
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

# Exponent of the ids' power law if no measured value is given: the default (flag alpha) of the
# synthetic benchmarks of NVIDIA's distributed-embeddings.
ID_EXPONENT = 1.05


@dataclasses.dataclass(frozen=True)
class Phase:
    """One term of a step.

    Attributes:
      name: name of the work.
      bound: its limit: `arithmetic`, `memory`, `exchange`, `all-reduce`, `input`, `overhead`.
      amount: operations or bytes on the busiest rank; 0 for a pure delay.
      seconds: its time.
      hidden: it runs in parallel with other phases, so it does not add to the step's time.
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
      counts: the counted work.
      seconds: time of the step.
      global_batch: B.
      unique_fraction: assumed share of unique ids; 1 without compress.
    """

    phases: tuple[Phase, ...]
    counts: StepCounts
    seconds: float
    global_batch: int
    unique_fraction: float

    @property
    def samples_per_second(self) -> float:
        """Global batch divided by the step's time."""
        return self.global_batch / self.seconds

    @property
    def bounds(self) -> dict[str, float]:
        """{bound: seconds}, longest first."""
        totals = {}
        for phase in self.phases:
            totals[phase.bound] = totals.get(phase.bound, 0.0) + phase.seconds
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    @property
    def bound(self) -> str:
        """The bound with the largest part of the step's time."""
        return next(iter(self.bounds))


@dataclasses.dataclass(frozen=True)
class Platform:
    """The hardware and software of a step.

    Attributes:
      device: a `Device`, or its name in `planner.hardware.DEVICES`.
      software: a `Software`, or its name in `planner.hardware.SOFTWARE`.
      network_bandwidth: bytes per second between nodes, per rank; None: the device's.
    """

    device: Device | str
    software: Software | str = "tensorflow"
    network_bandwidth: float | None = None


@dataclasses.dataclass(frozen=True)
class Ids:
    """How the ids of a batch are distributed and exchanged.

    Attributes:
      compress: duplicate ids are removed before the exchange.
      unique_fraction: with compress, the measured unique ids of a local batch over all its ids;
        None assumes a power law with exponent `ID_EXPONENT`.
      row_imbalance: see `planner.workload.count_step`; 1 assumes evenly distributed ids.
      per_table_files: see `planner.workload.count_step`.
    """

    compress: bool = False
    unique_fraction: float | None = None
    row_imbalance: float = 1.0
    per_table_files: bool = True


def predict(
    shape: ModelShape,
    placement: Placement,
    platform: Platform,
    ranks: int,
    global_batch: int,
    precision: str,
    ids: Ids | None = None,
) -> StepCost:
    """Predict one training step.

    Args:
      shape: the model's sizes.
      placement: on `ranks` ranks.
      platform: hardware and software.
      ranks: N.
      global_batch: B, a multiple of N.
      precision: `fp32`, `tf32`, `fp16` or `bf16`.
      ids: the batch's ids; default: evenly distributed, no deduplication, per-table files.

    Raises:
      ValueError: a name is unknown, or the sizes are inconsistent.
    """
    ids = ids or Ids()
    device = _look_up(DEVICES, platform.device, "device")
    software = _look_up(SOFTWARE, platform.software, "software")
    _look_up(device.matrix_rates, precision, f"precision of {device.name}")
    if placement.ranks != ranks:
        raise ValueError(f"placement: expected one for {ranks} ranks, found {placement.ranks}")
    unique_fraction, row_imbalance = ids.unique_fraction, ids.row_imbalance
    if not ids.compress:
        unique_fraction = 1.0
    elif unique_fraction is None:
        local = max(1, global_batch // ranks)
        unique_fraction = expected_unique_fraction(shape.vocab_sizes, local, ID_EXPONENT, shape.ids)
    elif not 0 < unique_fraction <= 1:
        raise ValueError(f"unique_fraction: expected above 0, at most 1, found {unique_fraction}")
    if not 1 <= row_imbalance <= ranks:
        raise ValueError(f"row_imbalance: expected 1 to {ranks} (ranks), found {row_imbalance}")
    counts = count_step(
        shape,
        placement,
        global_batch,
        precision,
        unique_fraction=unique_fraction,
        row_imbalance=row_imbalance,
        per_table_files=ids.per_table_files,
        gradient_bytes=4 if VALUE_BYTES[precision] == 4 else software.gradient_bytes,
    )
    rates = _Rates(device, ranks, precision, platform.network_bandwidth)
    phases = _phases(counts, rates, software)
    return StepCost(
        phases=phases,
        counts=counts,
        seconds=_step_seconds(phases, software),
        global_batch=global_batch,
        unique_fraction=unique_fraction,
    )


class _Rates:
    """The rates of a device for one precision and number of ranks."""

    def __init__(self, device, ranks, precision, network_bandwidth):
        reached = dict.fromkeys(REACHED, 1.0) if device.measured else REACHED
        self.matrix = device.matrix_rates[precision] * reached[precision]
        self.bandwidth = device.memory_bandwidth * reached["memory"]
        self.host = device.host_bandwidth * reached["host"]
        self.device, self.ranks = device, ranks
        self.node = min(ranks, device.ranks_per_node)  # ranks in a node
        self.network = network_bandwidth or device.network_bandwidth

    def exchange(self, amount):
        """Returns the seconds of an all-to-all of `amount` bytes per rank, own part included."""
        inside = amount * (self.node - 1) / self.ranks / self.device.alltoall_bandwidth
        outside = amount * (self.ranks - self.node) / self.ranks / self.network
        return max(inside, outside) + self.device.exchange_latency

    def allreduce(self, amount):
        """Returns the seconds of a ring in each node, then one ring per local rank across nodes."""
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
        raise ValueError(f"{what}: expected one of {', '.join(table)}, found {name!r}")
    return table[name]
