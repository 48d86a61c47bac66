"""Compares runs with published rates, and with the AUC of MLPerf runs on Criteo Terabyte.

MLPerf has two benchmarks with this data: DLRM, and DLRM-DCNv2 with the cross interaction and
several ids per feature.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from planner.published_runs import PUBLISHED_RUNS, VOCABULARIES, PublishedRun
from training.telemetry.report.runs import Run

# Days 0 to 22.
TERABYTE_TRAIN_SAMPLES = 4195197692
_EPOCH_PART = 0.05


class Convergence(NamedTuple):
    """Epochs until reference runs of one global batch size reached the target."""

    runs: int
    least: float
    mean: float
    most: float


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """An MLPerf benchmark.

    Attributes:
        name: in texts.
        target: AUC that ends a run.
        curves: {name of a submission: test AUC after each 5 % of the epoch}, from the result logs
            of MLPerf training at global batch 55,296.
        learning_rate: of these runs.
        convergence: {global batch: reference convergence}.
    """

    name: str
    target: float
    curves: Mapping[str, tuple[float, ...]]
    learning_rate: float
    convergence: Mapping[int, Convergence] = dataclasses.field(default_factory=dict)


DLRM = Benchmark(
    "MLPerf DLRM",
    0.8025,
    {
        "MLPerf, HugeCTR on 8 x A100": (
            0.7773, 0.7849, 0.7889, 0.7914, 0.7932, 0.7945, 0.7957, 0.7968, 0.7976, 0.7981, 0.7985,
            0.7985, 0.7992, 0.8000, 0.8010, 0.8017, 0.8023, 0.8026,
        ),
        "MLPerf v0.7, NVIDIA PyTorch on 8 x A100": (
            0.7767, 0.7856, 0.7896, 0.7911, 0.7932, 0.7949, 0.7957, 0.7970, 0.7975, 0.7980, 0.7985,
            0.7991, 0.7994, 0.8004, 0.8012, 0.8017, 0.8022, 0.8026,
        ),
    },
    24,
)  # fmt: skip
# Curve: mlcommons/training_results_v4.0, NVIDIA/results/h200_ngc24.04_merlin_hugectr/dlrm_dcnv2/
# result_0.txt. Convergence: mlcommons/logging 4.1.68, rcp_checker/training_6.0.0/
# rcps_dlrm_dcnv2.json.
DCNV2 = Benchmark(
    "MLPerf DLRM-DCNv2",
    0.80275,
    {
        "MLPerf v4.0 DLRM-DCNv2, HugeCTR on 8 x H200": (
            0.7897, 0.7941, 0.7961, 0.7977, 0.7986, 0.7994, 0.8002, 0.8006, 0.8012, 0.8014, 0.8017,
            0.8021, 0.8023, 0.8027, 0.8031,
        ),
    },
    0.004,
    {
        32768: Convergence(30, 0.65, 0.7067, 0.75),
        55296: Convergence(50, 0.7, 0.763, 0.9),
        65536: Convergence(30, 0.7, 0.7933, 0.95),
        102400: Convergence(50, 0.8, 0.89, 0.95),
        135168: Convergence(88, 0.85, 0.9278, 1.0),
        160000: Convergence(20, 0.9, 0.9575, 1.0),
    },
)  # fmt: skip
_MODEL = {"embedding_dim": 128, "bottom_mlp": "512,256,128", "top_mlp": "1024,1024,512,256,1"}
_EQUIVALENT = {"float32": ("fp32",), "float32 or tf32": ("fp32", "tf32"), "float16": ("fp16",),
          "16 bits": ("fp16",)}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A run compared with one published run.

    Attributes:
        row: the published run.
        ratio: the run's samples per second divided by the published rate, or None.
        differences: a text for each difference, except the GPU model, which journals lack.
    """

    row: PublishedRun
    ratio: float | None
    differences: tuple[str, ...]


def benchmark(run: Run) -> Benchmark:
    """Returns a run's benchmark: DLRM-DCNv2 for a cross network on multi-hot data, else DLRM."""
    multi_hot = run.config["data"].get("bags") is not None
    return DCNV2 if run.flags.get("interaction") == "cross" and multi_hot else DLRM


def curve_points(aucs: Sequence[float]) -> tuple[list[float], list[float]]:
    """Returns ([samples], [AUC]) of one of a benchmark's curves."""
    step = _EPOCH_PART * TERABYTE_TRAIN_SAMPLES
    return [step * (i + 1) for i in range(len(aucs))], list(aucs)


def convergence_points(found: Benchmark, batch: int) -> tuple[str, list[float]] | None:
    """Returns (text, [least, mean, most samples until the target]) of a benchmark's reference.

    Of the reference with the global batch size closest to `batch`; None if there is none.
    """
    if not found.convergence:
        return None
    nearest = min(found.convergence, key=lambda size: max(size / batch, batch / size))
    runs, *epochs = found.convergence[nearest]
    text = f"MLPerf's reference at batch {nearest:,}: least, mean and most of {runs} runs"
    return text, [TERABYTE_TRAIN_SAMPLES * part for part in epochs]


def is_terabyte(run: Run) -> bool:
    """Returns whether a run's data is Criteo Terabyte, by sample count or table sizes."""
    data = run.config["data"]
    if data.get("layout") == "synthetic":
        return False
    if data.get("train_samples") == TERABYTE_TRAIN_SAMPLES:
        return True
    return vocabulary(run) is not None


def vocabulary(run: Run) -> str | None:
    """Returns the name in `VOCABULARIES` of a run's table sizes, or None.

    Some tools add one row per table for missing categories.
    """
    sizes = run.config["data"].get("vocab_sizes") or run.config.get("vocab_sizes")
    if not isinstance(sizes, list):
        return None
    for name, known in VOCABULARIES.items():
        if len(sizes) == len(known) and all(0 <= s - k <= 1 for s, k in zip(sizes, known)):
            return name
    return None


def precision(run: Run) -> str:
    """Returns the precision of a run's matrix products, as far as the journal shows."""
    machine = run.machine()
    if not run.flags.get("amp"):
        may_round = machine == "GPU" and run.flags.get("tf32", True)
        return "float32 or tf32" if may_round else "float32"
    chosen = run.flags.get("amp_dtype", "auto")
    if chosen != "auto":
        return chosen
    return {"CPU": "bfloat16", "GPU": "float16"}.get(machine or "", "16 bits")


def hardware(run: Run) -> str:
    """Returns a run's ranks and device type as text."""
    ranks = run.config["ranks"]
    return f"{ranks:,} rank{'s' if ranks > 1 else ''} on {run.machine() or 'unknown device'}"


def compare(run: Run) -> list[Comparison]:
    """Returns a run's comparisons with all published runs, the most similar first."""
    rate = run.samples_per_second()
    found = [
        Comparison(row, rate and rate / row.rate, tuple(_differences(run, row)))
        for row in PUBLISHED_RUNS
    ]
    return sorted(found, key=lambda c: (len(c.differences), _distance(run, c.row)))


def _differences(run: Run, row: PublishedRun) -> Iterator[str]:
    if run.machine() != "GPU" or run.config["ranks"] != row.ranks:
        yield f"{hardware(run)}, not {row.system}"
    if run.batch != row.global_batch:
        yield f"batch {run.batch:,}, not {row.global_batch:,}"
    ours = precision(run)
    if row.precision not in _EQUIVALENT.get(ours, (ours,)):
        yield f"{ours}, not {row.precision}"
    if not is_terabyte(run):
        yield "other data"
    elif vocabulary(run) not in (None, row.vocabulary):
        yield f"tables {vocabulary(run)}, not {row.vocabulary}"
    interaction = run.flags.get("interaction", "dot")
    if interaction != row.interaction:
        yield f"interaction {interaction}, not {row.interaction}"
    hotness = (run.config["data"].get("bags") or {"hotness": ()})["hotness"]
    if list(hotness) != list(row.hotness):
        yield f"{_ids_text(hotness)}, not {_ids_text(row.hotness)}"
    if any(name in run.flags and run.flags[name] != value for name, value in _MODEL.items()):
        yield "other model"


def _ids_text(hotness: Sequence[int]) -> str:
    return f"{sum(hotness):,} ids per sample" if hotness else "one id per feature"


def _distance(run: Run, row: PublishedRun) -> float:
    """Returns how much ranks and batch differ; smaller is more similar."""
    pairs = ((run.config["ranks"], row.ranks), (run.batch, row.global_batch))
    return sum(max(a, b) / min(a, b) for a, b in pairs)
