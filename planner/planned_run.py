"""A run to plan: model, machines, tables and batch; its placement and the cost of its steps."""

from __future__ import annotations

import dataclasses

from model.embedding.optimizers import OPTIMIZERS
from model.embedding.placement import POLICIES, Placement, check_optimizer, plan
from model.embedding.placement_file import read_placement
from planner.arguments import ArgumentError, check_column_split
from planner.cost_model import Ids, Platform, StepCost, predict
from planner.hardware import DEVICES, TABLE_MEMORY_SHARE
from planner.workload import ModelShape


@dataclasses.dataclass(frozen=True)
class Machines:
    """The machines of a planned run.

    Attributes:
      ranks: N.
      device: a name in `planner.hardware.DEVICES`.
      software: a name in `planner.hardware.SOFTWARE`.
      memory_per_rank: bytes for tables on one rank; None: a share of the device's memory.
      network_bandwidth: bytes per second between nodes, per rank; None: the device's.

    Raises:
      ArgumentError: the device is unknown.
    """

    ranks: int = 1
    device: str = "a100-80gb"
    software: str = "tensorflow"
    memory_per_rank: int | None = None
    network_bandwidth: int | None = None

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise ArgumentError.of_flag(
                "device", self.device, f"expected one of {', '.join(DEVICES)}"
            )

    @property
    def table_bytes(self) -> int | None:
        """Bytes for tables on one rank; None: no known limit."""
        memory = DEVICES[self.device].memory_bytes
        if self.memory_per_rank is not None or memory is None:
            return self.memory_per_rank
        return int(memory * TABLE_MEMORY_SHARE)


@dataclasses.dataclass(frozen=True)
class Tables:
    """The tables of a planned run.

    Attributes:
      optimizer: a name in `OPTIMIZERS`.
      placement: `auto`, `table`, `row`, or the path of a placement file for N ranks.
      column_split: tables may be split by column.
      replicate_below_rows: see `model.embedding.placement.plan`.

    Raises:
      ArgumentError: the optimizer's states cannot be split by column.
    """

    optimizer: str = "sgd"
    placement: str = "auto"
    column_split: bool = False
    replicate_below_rows: int = 0

    def __post_init__(self) -> None:
        if self.column_split:
            check_column_split(self.optimizer)


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run to plan.

    Attributes:
      shape: the model's sizes.
      machines: hardware and software.
      tables: optimizer and placement of the tables.
      global_batch_size: B.
      amp: mixed precision: float16 on a GPU, bfloat16 on a CPU.
      tf32: without `amp`, GPUs that can (A100 and later) round operands of products to TF32.
      compress: duplicate ids are removed before the exchange.
      unique_fraction: measured share of unique ids in a local batch, or None.
      per_table_files: ranks can read the ids of only their own tables.
    """

    shape: ModelShape
    machines: Machines = dataclasses.field(default_factory=Machines)
    tables: Tables = dataclasses.field(default_factory=Tables)
    global_batch_size: int = 65536
    amp: bool = False
    tf32: bool = True
    compress: bool = False
    unique_fraction: float | None = None
    per_table_files: bool = True

    def place(self, ranks: int) -> Placement:
        """Return the placement on a number of ranks.

        Raises:
          PlacementError: the tables do not fit, or the placement file is wrong.
        """
        shape, tables = self.shape, self.tables
        limits = {
            "bytes_per_rank": self.machines.table_bytes,
            "optimizer_bytes_per_row": OPTIMIZERS[tables.optimizer].bytes_per_row(shape.dimension),
        }
        if tables.placement not in POLICIES and ranks == self.machines.ranks:
            read = read_placement(
                tables.placement, vocab_sizes=shape.vocab_sizes, dimension=shape.dimension,
                ranks=ranks, **limits,
            )  # fmt: skip
            check_optimizer(read, tables.optimizer, tables.placement)
            return read
        return plan(
            shape.vocab_sizes,
            shape.dimension,
            ranks,
            policy=tables.placement if tables.placement in POLICIES else "auto",
            column_split="auto" if tables.column_split else False,
            replicate_below_rows=tables.replicate_below_rows,
            **limits,
        )

    def cost(self, placed: Placement) -> StepCost:
        """Return the predicted cost of a step."""
        machines = self.machines
        return predict(
            self.shape,
            placed,
            Platform(machines.device, machines.software, machines.network_bandwidth),
            placed.ranks,
            self.global_batch_size,
            self.precision,
            Ids(self.compress, self.unique_fraction, per_table_files=self.per_table_files),
        )

    @property
    def precision(self) -> str:
        """Precision of matrix products: a name in `planner.cost_model.predict`."""
        on_cpu = self.machines.device.startswith("cpu")
        if self.amp:
            return "bf16" if on_cpu else "fp16"
        has_tf32 = not on_cpu and not self.machines.device.startswith("v100")
        return "tf32" if has_tf32 and self.tf32 else "fp32"
