"""Compares runs with published rates, and with the AUC of MLPerf runs on Criteo Terabyte."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from planner.published_runs import PUBLISHED_RUNS, VOCABULARIES, PublishedRun
from training.telemetry.report.runs import Run

# Days 0 to 22.
TERABYTE_TRAIN_SAMPLES = 4195197692
MLPERF_AUC = 0.8025
# Test AUC after each 5 % of the epoch, from the result logs of MLPerf training; global batch
# 55,296, learning rate 24.
_EPOCH_PART = 0.05
AUC_CURVES = {
    "MLPerf, HugeCTR on 8 x A100": (
        0.7773, 0.7849, 0.7889, 0.7914, 0.7932, 0.7945, 0.7957, 0.7968, 0.7976, 0.7981, 0.7985,
        0.7985, 0.7992, 0.8000, 0.8010, 0.8017, 0.8023, 0.8026,
    ),
    "MLPerf v0.7, NVIDIA PyTorch on 8 x A100": (
        0.7767, 0.7856, 0.7896, 0.7911, 0.7932, 0.7949, 0.7957, 0.7970, 0.7975, 0.7980, 0.7985,
        0.7991, 0.7994, 0.8004, 0.8012, 0.8017, 0.8022, 0.8026,
    ),
}  # fmt: skip
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


def curve_points(aucs: Sequence[float]) -> tuple[list[float], list[float]]:
    """Returns ([samples], [AUC]) of one of `AUC_CURVES`."""
    step = _EPOCH_PART * TERABYTE_TRAIN_SAMPLES
    return [step * (i + 1) for i in range(len(aucs))], list(aucs)


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
    if any(name in run.flags and run.flags[name] != value for name, value in _MODEL.items()):
        yield "other model"


def _distance(run: Run, row: PublishedRun) -> float:
    """Returns how much ranks and batch differ; smaller is more similar."""
    pairs = ((run.config["ranks"], row.ranks), (run.batch, row.global_batch))
    return sum(max(a, b) / min(a, b) for a, b in pairs)
