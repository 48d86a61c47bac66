"""All constants of the cost model, with their sources.

Rates are per device and second, bandwidths in bytes per second and direction. Peaks are the
vendor's; `REACHED` is the share of the peak that programs reach, `SOFTWARE` their fixed overhead.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Device:
    """One accelerator, or the CPU cores of one rank, in its usual machine.

    Attributes:
      name: the value of `--device`.
      memory_bytes: capacity; None if it depends on the machine (CPU).
      memory_bandwidth: of its main memory.
      matrix_rates: floating-point operations per second, by supported precision.
      ranks_per_node: number of devices that `alltoall_bandwidth` connects.
      alltoall_bandwidth: of an all-to-all within a node, per rank.
      allreduce_bandwidth: of a ring all-reduce within a node, per rank.
      network_bandwidth: between nodes, per rank.
      host_bandwidth: from the host's memory.
      exchange_latency: seconds of one small all-to-all.
      measured: the rates were measured, so `REACHED` does not apply to them.
      sources: sources of the numbers.
    """

    name: str
    memory_bytes: int | None
    memory_bandwidth: float
    matrix_rates: dict[str, float]
    ranks_per_node: int
    alltoall_bandwidth: float
    allreduce_bandwidth: float
    network_bandwidth: float
    host_bandwidth: float
    exchange_latency: float
    measured: bool
    sources: str


@dataclasses.dataclass(frozen=True)
class Software:
    """A training program's overhead and behaviour.

    Attributes:
      name: the value of `--software`.
      step_overhead: seconds per step that do not depend on the batch: kernel launches, Horovod's
        negotiation, host synchronisation.
      overlaps_exchange: exchanges run while the device computes.
      gradient_bytes: bytes of a dense gradient's value in the all-reduce with AMP.
      source: source of `step_overhead`.
    """

    name: str
    step_overhead: float
    overlaps_exchange: bool
    gradient_bytes: int
    source: str


# Share of the vendor's peak that programs reach.
REACHED = {
    # Fitted, with TensorFlow's step overhead, to the four A100 rows of DeepLearningExamples'
    # TF2 DLRM (one and eight GPUs, TF32 and AMP); test_cost_model repeats the fit.
    "tf32": 0.50,
    "fp16": 0.40,
    "bf16": 0.40,  # the same units and the same rate as fp16
    # Fitted to one row: the same program on 16 V100 without AMP (6.43 M samples/s).
    "fp32": 0.77,
    # Assumption: copies reach about 0.9 of the peak, gathers and scatters of 512-byte rows less.
    "memory": 0.80,
    # HugeCTR's defaults for a DGX A100 (300 GB/s): max_all_to_all_bandwidth 1.9e11 and
    # max_all_reduce_bandwidth 1.3e11 (HybridEmbeddingParam), used for every NVSwitch machine.
    "alltoall": 1.9e11 / 3.0e11,
    "allreduce": 1.3e11 / 3.0e11,
    # Assumption: protocol overhead of InfiniBand and PCIe.
    "network": 0.80,
    "host": 0.75,
}

# Share of a device's memory for tables, also the trainer's default. Assumption: activations,
# exchange buffers and library workspaces need the rest.
TABLE_MEMORY_SHARE = 0.80

_V100 = {
    "memory_bytes": 32 * 10**9,
    "memory_bandwidth": 900e9,
    "matrix_rates": {"fp32": 15.7e12, "fp16": 125e12},
    "host_bandwidth": 15.75e9,
    "exchange_latency": 30e-6,
    "measured": False,
}
_A100 = {
    "matrix_rates": {"fp32": 19.5e12, "tf32": 156e12, "fp16": 312e12, "bf16": 312e12},
    "ranks_per_node": 8,
    "alltoall_bandwidth": 300e9 * REACHED["alltoall"],
    "allreduce_bandwidth": 300e9 * REACHED["allreduce"],
    "network_bandwidth": 25e9 * REACHED["network"],
    "host_bandwidth": 31.5e9,
    "exchange_latency": 30e-6,
    "measured": False,
}
_HOPPER = {
    "matrix_rates": {"fp32": 67e12, "tf32": 494.7e12, "fp16": 989.4e12, "bf16": 989.4e12},
    "ranks_per_node": 8,
    "alltoall_bandwidth": 450e9 * REACHED["alltoall"],
    "allreduce_bandwidth": 450e9 * REACHED["allreduce"],
    "network_bandwidth": 50e9 * REACHED["network"],
    "host_bandwidth": 63e9,
    "exchange_latency": 30e-6,
    "measured": False,
}
_CPU = {
    "memory_bytes": None,
    "memory_bandwidth": 42e9,
    "ranks_per_node": 1,
    "alltoall_bandwidth": 2e9,
    "allreduce_bandwidth": 2e9,
    "network_bandwidth": 2e9,
    "host_bandwidth": 42e9,
    "exchange_latency": 1e-3,
    "measured": True,
}
_CPU_SOURCE = (
    "measured on two cores of a server processor: copy 42 GB/s, oneDNN 3.2 matrix products of all "
    "eight MLP layers at batch 8192, Gloo all-to-all on loopback 2 GB/s + 1 ms; assumes two such "
    "cores per rank and a network as fast as loopback"
)

DEVICES = {
    device.name: device
    for device in (
        Device(
            name="v100-32gb",
            ranks_per_node=8,
            # A GPU of a DGX-1 has NVLinks to 4 of its 7 peers; transfers to the other 3 cross
            # PCIe 3.0 x16 (15.75 GB/s, of which REACHED["host"]) and take longest.
            alltoall_bandwidth=15.75e9 * REACHED["host"] * 7 / 3,
            allreduce_bandwidth=150e9 * REACHED["allreduce"],
            network_bandwidth=12.5e9 * 4 / 8 * REACHED["network"],
            sources="V100 SXM2 data sheet; DGX-1: hybrid cube mesh, 4 x 100 Gb/s InfiniBand",
            **_V100,
        ),
        Device(
            name="v100-32gb-dgx2",
            ranks_per_node=16,
            alltoall_bandwidth=150e9 * REACHED["alltoall"],
            allreduce_bandwidth=150e9 * REACHED["allreduce"],
            network_bandwidth=12.5e9 * 8 / 16 * REACHED["network"],
            sources="V100 SXM3 data sheet; DGX-2: NVSwitch 300 GB/s, 8 x 100 Gb/s InfiniBand",
            **_V100,
        ),
        Device(
            name="a100-40gb",
            memory_bytes=40 * 10**9,
            memory_bandwidth=1555e9,
            sources="A100 SXM4 40 GB data sheet; DGX A100: NVSwitch 600 GB/s, 8 x 200 Gb/s",
            **_A100,
        ),
        Device(
            name="a100-80gb",
            memory_bytes=80 * 10**9,
            memory_bandwidth=2039e9,
            sources="A100 SXM4 80 GB data sheet; DGX A100: NVSwitch 600 GB/s, 8 x 200 Gb/s",
            **_A100,
        ),
        Device(
            name="h100-80gb",
            memory_bytes=80 * 10**9,
            memory_bandwidth=3350e9,
            sources="H100 SXM5 data sheet (dense rates); DGX H100: 900 GB/s, 8 x 400 Gb/s",
            **_HOPPER,
        ),
        Device(
            name="h200-141gb",
            memory_bytes=141 * 10**9,
            memory_bandwidth=4800e9,
            sources="H200 SXM5 data sheet (dense rates); DGX H200: 900 GB/s, 8 x 400 Gb/s",
            **_HOPPER,
        ),
        Device(
            name="cpu",
            # Without AMX, no precision was faster than float32.
            matrix_rates={"fp32": 0.38e12, "bf16": 0.38e12},
            sources=_CPU_SOURCE,
            **_CPU,
        ),
        Device(
            name="cpu-amx",
            # 8192 samples x 14.2 MFLOP in 61 ms; a single prepacked product reaches 3.1e12.
            matrix_rates={"fp32": 0.38e12, "bf16": 1.9e12},
            sources=_CPU_SOURCE,
            **_CPU,
        ),
    )
}

SOFTWARE = {
    software.name: software
    for software in (
        Software(
            name="tensorflow",
            step_overhead=2.0e-3,
            overlaps_exchange=False,
            gradient_bytes=4,
            source="fitted with REACHED to DeepLearningExamples' four A100 rows",
        ),
        Software(
            name="hugectr",
            step_overhead=0.13e-3,
            overlaps_exchange=True,
            gradient_bytes=2,
            source="fitted to one row: MLPerf v2.0 on DGX A100 (40.8 M samples/s)",
        ),
        Software(
            name="torchrec",
            step_overhead=2.0e-3,
            overlaps_exchange=False,
            gradient_bytes=4,
            source="not fitted: the value of tensorflow",
        ),
    )
}
