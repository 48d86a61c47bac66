"""Published training rates of DLRM on Criteo Terabyte, compared with predictions.

All have D = 128, bottom MLP 512-256-128 and top MLP 1024-1024-512-256-1. The cross networks of
DLRM-DCNv2 have 3 layers of rank 512. `python3 -m planner.published_runs` prints the comparison in
docs/placement.md.
"""

from __future__ import annotations

import dataclasses

from model.embedding.optimizers import OPTIMIZERS
from model.embedding.placement import plan
from ops.bags import MLPERF_HOTNESS
from planner.cost_model import Ids, Platform, StepCost, predict
from planner.hardware import DEVICES, TABLE_MEMORY_SHARE
from planner.workload import ModelShape

# fmt: off
VOCABULARIES = {
    # Preprocessing of HugeCTR and MLPerf with at most 40 million rows per table: 96 GB.
    "mlperf": (
        39884406, 39043, 17289, 7420, 20263, 3, 7120, 1543, 63, 38532951, 2953546, 403346, 10,
        2208, 11938, 155, 4, 976, 14, 39979771, 25641295, 39664984, 585935, 12972, 108, 36,
    ),
    # TorchRec's example and DLRM-DCNv2: the same limit with other counts; twice the limit; no limit
    # (451 GB).
    "torchrec": (
        40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000, 3067956, 405282, 10,
        2209, 11938, 155, 4, 976, 14, 40000000, 40000000, 40000000, 590152, 12973, 108, 36,
    ),
    "torchrec-x2": (
        80000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 80000000, 3067956, 405282, 10,
        2209, 11938, 155, 4, 976, 14, 80000000, 40790948, 80000000, 590152, 12973, 108, 36,
    ),
    "full": (
        227605432, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 130229467, 3067956, 405282, 10,
        2209, 11938, 155, 4, 976, 14, 292775614, 40790948, 187188510, 590152, 12973, 108, 36,
    ),
    # DeepLearningExamples, values that occur at least 15 times: 16.8 GB, fits one GPU.
    "frequency-15": (
        7912889, 33823, 17139, 7339, 20046, 4, 7105, 1382, 63, 5554114, 582469, 245828, 11,
        2209, 10667, 104, 4, 968, 15, 8165896, 2675940, 7156453, 302516, 12022, 97, 35,
    ),
}
# fmt: on

SOK = "SOK DLRM benchmark (HugeCTR repository)"
DLE = "DeepLearningExamples TF2 DLRM"
DE = "distributed-embeddings DLRM example"
MLPERF = "MLPerf training results, HugeCTR"
TORCHREC = "TorchRec DLRM example"
DLE_DCNV2 = "DeepLearningExamples TF2 DCNv2"
MLPERF_DCNV2 = "MLPerf training results, HugeCTR, DLRM-DCNv2"


@dataclasses.dataclass(frozen=True)
class PublishedRun:
    """One published training rate.

    Attributes:
      source: its publisher.
      system: description of the machine.
      ranks: N.
      device, global_batch, precision, compress, software: see `planner.cost_model.predict`.
      vocabulary: a name in `VOCABULARIES`.
      policy: the placement policy that is most similar to the program's.
      rate: published samples per second.
      fitted: the constants fitted to this row, or empty.
      network_bandwidth: if it differs from the device's usual machine.
      interaction: a name in `model.interactions.INTERACTIONS`.
      optimizer: of the tables, a name in `model.embedding.optimizers.OPTIMIZERS`.
      hotness: ids per sample for each table; empty: one each.
    """

    source: str
    system: str
    device: str
    ranks: int
    global_batch: int
    precision: str
    rate: float
    vocabulary: str = "mlperf"
    policy: str = "auto"
    compress: bool = False
    software: str = "tensorflow"
    fitted: str = ""
    network_bandwidth: float | None = None
    interaction: str = "dot"
    optimizer: str = "sgd"
    hotness: tuple[int, ...] = ()


def _sok(system, device, batch, precision, rate):
    return PublishedRun(
        SOK, system, device, 8, batch, precision, rate, policy="row", compress=precision != "fp16"
    )


# 80 % of 400 Gb/s for eight GPUs: AWS p4d.24xlarge, the machine in the example's README.
_P4D = 400e9 / 8 / 8 * 0.8
_FIT = "shares, overhead"

PUBLISHED_RUNS = (
    PublishedRun(
        DLE, "1 x A100", "a100-80gb", 1, 65536, "tf32", 2.84e6, "frequency-15", fitted=_FIT
    ),
    PublishedRun(
        DLE, "1 x A100", "a100-80gb", 1, 65536, "fp16", 4.55e6, "frequency-15", fitted=_FIT
    ),
    PublishedRun(DLE, "8 x A100", "a100-80gb", 8, 65536, "tf32", 10.9e6, fitted=_FIT),
    PublishedRun(DLE, "8 x A100", "a100-80gb", 8, 65536, "fp16", 13.8e6, fitted=_FIT),
    PublishedRun(DLE, "8 x A100", "a100-80gb", 8, 65536, "tf32", 9.76e6, "full"),
    PublishedRun(DLE, "8 x A100", "a100-80gb", 8, 65536, "fp16", 11.5e6, "full"),
    PublishedRun(DLE, "8 x V100", "v100-32gb", 8, 65536, "fp32", 3.13e6),
    PublishedRun(DLE, "8 x V100", "v100-32gb", 8, 65536, "fp16", 6.31e6),
    PublishedRun(
        DLE, "16 x V100", "v100-32gb-dgx2", 16, 65536, "fp32", 6.43e6, fitted="fp32 share"
    ),
    PublishedRun(DLE, "16 x V100", "v100-32gb-dgx2", 16, 65536, "fp16", 10.5e6),
    PublishedRun(DE, "8 x A100", "a100-80gb", 8, 65536, "tf32", 9.16e6),
    PublishedRun(DE, "8 x A100", "a100-80gb", 8, 65536, "fp16", 10.4e6),
    _sok("8 x A100", "a100-80gb", 65536, "tf32", 12.08e6),
    _sok("8 x A100", "a100-80gb", 65536, "fp16", 14.51e6),
    _sok("8 x A100", "a100-80gb", 55296, "tf32", 11.66e6),
    _sok("8 x A100", "a100-80gb", 55296, "fp16", 12.50e6),
    _sok("8 x V100", "v100-32gb", 65536, "fp32", 4.02e6),
    _sok("8 x V100", "v100-32gb", 65536, "fp16", 6.99e6),
    _sok("8 x V100", "v100-32gb", 55296, "fp32", 3.85e6),
    _sok("8 x V100", "v100-32gb", 55296, "fp16", 6.62e6),
    *(
        PublishedRun(
            MLPERF, system, device, ranks, batch, "fp16", rate, software="hugectr",
            policy="row", compress=True, fitted=fitted,
        )
        for system, device, ranks, batch, rate, fitted in (
            ("8 x A100, v0.7", "a100-80gb", 8, 55296, 22.8e6, ""),
            ("8 x A100, v2.0", "a100-80gb", 8, 55296, 40.8e6, "overhead"),
            ("64 x A100, v2.0", "a100-80gb", 64, 71680, 116.8e6, ""),
            ("8 x H100, v2.1", "h100-80gb", 8, 55296, 64.7e6, ""),
            ("32 x H100, v2.1", "h100-80gb", 32, 71680, 148.6e6, ""),
            ("16 x V100, v0.7", "v100-32gb-dgx2", 16, 55296, 18.8e6, ""),
        )
    ),
    PublishedRun(
        TORCHREC, "8 x A100", "a100-40gb", 8, 65536, "fp32", 5497160.0, "torchrec",
        software="torchrec",
    ),
    PublishedRun(
        TORCHREC, "16 x A100", "a100-40gb", 16, 65536, "fp32", 2028339.0, "torchrec-x2",
        software="torchrec", network_bandwidth=_P4D,
    ),
    PublishedRun(
        TORCHREC, "80 x A100", "a100-40gb", 80, 65520, "fp32", 459950.0, "full",
        software="torchrec", network_bandwidth=_P4D,
    ),
    *(
        PublishedRun(
            DLE_DCNV2, system, "a100-80gb", ranks, 65536, precision, rate, vocabulary,
            interaction="cross", optimizer="adam",
        )
        for system, ranks, vocabulary, rates in (
            ("1 x A100", 1, "frequency-15", (0.689e6, 1.37e6)),
            ("8 x A100", 8, "mlperf", (3.81e6, 5.75e6)),
        )
        for precision, rate in zip(("tf32", "fp16"), rates)
    ),
    *(
        PublishedRun(
            MLPERF_DCNV2, system, device, 8, batch, "fp16", rate, "torchrec", policy="row",
            compress=True, software="hugectr", interaction="cross", optimizer="adagrad",
            hotness=MLPERF_HOTNESS,
        )
        for system, device, batch, rate in (
            ("8 x A100, v3.0", "a100-80gb", 55296, 7.74e6),
            ("8 x H100, v4.0", "h100-80gb", 55296, 15.7e6),
            ("8 x H200, v4.0", "h200-141gb", 55296, 17.0e6),
            ("8 x H200, v5.0", "h200-141gb", 65536, 17.7e6),
        )
    ),
)  # fmt: skip


def prediction(run: PublishedRun) -> StepCost:
    """Predict a published run."""
    vocab_sizes, device = VOCABULARIES[run.vocabulary], DEVICES[run.device]
    shape = ModelShape(vocab_sizes, interaction=run.interaction, hotness=run.hotness)
    memory = device.memory_bytes
    placement = plan(
        vocab_sizes,
        shape.dimension,
        run.ranks,
        policy=run.policy,
        bytes_per_rank=None if memory is None else int(memory * TABLE_MEMORY_SHARE),
        optimizer_bytes_per_row=OPTIMIZERS[run.optimizer].bytes_per_row(shape.dimension),
    )
    return predict(
        shape,
        placement,
        Platform(device, run.software, run.network_bandwidth),
        run.ranks,
        run.global_batch,
        run.precision,
        Ids(run.compress),
    )


def comparison() -> str:
    """Return published and predicted rates as a Markdown table."""
    lines = [
        "| source | system | batch | tables | precision | published M/s | predicted M/s | error "
        "| largest part of the predicted step | fitted to it |",
        "|---|---|---:|---|---|---:|---:|---:|---|---|",
    ]
    for run in PUBLISHED_RUNS:
        cost = prediction(run)
        bound, seconds = next(iter(cost.bounds.items()))
        lines.append(
            f"| {run.source} | {run.system} | {run.global_batch:,} | {run.vocabulary} "
            f"| {run.precision} | {run.rate / 1e6:.2f} | {cost.samples_per_second / 1e6:.2f} "
            f"| {cost.samples_per_second / run.rate - 1:+.0%} "
            f"| {bound} {seconds / cost.seconds:.0%} | {run.fitted} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(comparison())
