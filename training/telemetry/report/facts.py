"""The report's tables: results, settings, evaluations, checkpoints and phases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from training.telemetry.report.published import hardware, precision
from training.telemetry.report.runs import Run

# Shown for unknown values.
NONE = "\u2013"
_ENDS = {"epochs": "all epochs done", "auc_threshold": "AUC threshold passed",
         "early_stop": "step limit reached", "signal": "stopped by a signal"}  # fmt: skip


def number(value: float | None, digits: int = 0) -> str:
    """Returns a number with thousands separators; a dash for None and NaN."""
    return NONE if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def duration(seconds: float | None) -> str:
    """Returns seconds as text: 12.3 s, 4 min 05 s, 2 h 03 min."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def end_text(run: Run) -> str:
    """Returns how a run ended, as text."""
    if run.result is None:
        return f"no result (killed or still running); last step in the journal: {run.last_step():,}"
    stopped_by: str = run.result["stopped_by"]
    return _ENDS.get(stopped_by, stopped_by)


def _best(run: Run) -> dict[str, Any] | None:
    scores = [e for e in run.of("evaluation") if not math.isnan(e["auc"])]
    return max(scores, key=lambda e: e["auc"]) if scores else None


def summary(runs: Sequence[Run]) -> list[tuple[str, list[str], bool]]:
    """Returns rows of (name, [text of each run], False), as in `settings`."""
    best = [_best(run) for run in runs]
    results = [run.result or {} for run in runs]
    steps = [run.last_step() for run in runs]
    last = [(run.of("evaluation") or [{}])[-1] for run in runs]
    only = ", last start" if any(run.resumes for run in runs) else ""
    rows = [
        ("end", [end_text(run) for run in runs]),
        ("AUC, last evaluation", [number(e.get("auc"), 6) for e in last]),
        ("best AUC", [
            NONE if b is None else f"{b['auc']:.6f} at step {b['step']:,}" for b in best
        ]),
        ("log loss, last evaluation", [number(e.get("log_loss"), 6) for e in last]),
        ("attainable AUC of the data", [number(r.get("attainable_auc"), 6) for r in results]),
        ("throughput (samples per second)", [number(run.samples_per_second()) for run in runs]),
        ("time per step (milliseconds)", [
            number(rate and 1000 * run.batch / rate, 2)
            for run, rate in ((run, run.samples_per_second()) for run in runs)
        ]),
        ("steps", [f"{s:,} of {run.config['steps']:,}" for s, run in zip(steps, runs)]),
        ("samples trained", [number(s * run.batch) for s, run in zip(steps, runs)]),
        ("global batch (samples)", [number(run.batch) for run in runs]),
        (f"training time{only}", [duration(r.get("training_seconds")) for r in results]),
        (f"evaluation time{only}", [duration(r.get("evaluating_seconds")) for r in results]),
        (f"total time{only}", [duration(r.get("total_seconds")) for r in results]),
        ("machine", [hardware(run) for run in runs]),
        ("precision", [precision(run) for run in runs]),
        ("data", [_data(run) for run in runs]),
    ]  # fmt: skip
    return [(name, texts, False) for name, texts in rows if set(texts) != {NONE}]


def _data(run: Run) -> str:
    data = run.config["data"]
    counts = [
        f"{data[f'{part}_samples']:,} {name}"
        for part, name in (("train", "training"), ("test", "test"))
        if isinstance(data.get(f"{part}_samples"), int)
    ]
    layout = data.get("layout")
    return ", ".join([*counts, *([f"layout {layout}"] if layout else [])]) or NONE


def settings(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, list[str], bool]]]]:
    """Returns [(group, rows)] of the config events; a row is (name, [text of each run], differ)."""
    groups = []
    for key, title in (("flags", "Flags"), ("versions", "Versions"), ("data", "Data")):
        parts = [run.config[key] for run in runs]
        rows = []
        for name in sorted({name for part in parts for name in part}):
            texts = [_text(part.get(name), separated=key == "data") for part in parts]
            shown = f"--{name}" if key == "flags" else name
            rows.append((shown, texts, len(set(texts)) > 1))
        groups.append((title, rows))
    return groups


def _text(value: Any, separated: bool) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and separated:
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(str(v) for v in value)
    return str(value)


def evaluations(run: Run) -> list[tuple[str, ...]]:
    """Returns rows of (step, samples, AUC, log loss, test samples, time) as text."""
    return [
        (number(e["step"]), number(e["samples"]), number(e["auc"], 6), number(e["log_loss"], 6),
         number(e["test_samples"]), duration(e["seconds"]))
        for e in run.of("evaluation")
    ]  # fmt: skip


def checkpoints(run: Run) -> list[tuple[str, ...]]:
    """Returns rows of (step, gigabytes, time to write, training pause, path) as text."""
    return [
        (number(e["step"]), f"{e['bytes'] / 1e9:,.3f}", duration(e["seconds"]),
         f"{e['pause_seconds']:.3f} s", e["path"])
        for e in run.of("checkpoint")
    ]  # fmt: skip


def phases(run: Run) -> list[tuple[str, str, str]]:
    """Returns the last breakdown as rows of (phase, milliseconds, share) as text."""
    event = run.of("breakdown")[-1]
    total = sum(p["milliseconds"] for p in event["phases"])
    rows = []
    for phase in event["phases"]:
        share = phase["milliseconds"] / total if total else 0.0
        rows.append((phase["name"], f"{phase['milliseconds']:,.3f}", f"{share:.1%}"))
    rows.append(("all phases", f"{event['step_milliseconds']:,.3f}", ""))
    rows.append(("fused step", f"{event['whole_milliseconds']:,.3f}", ""))
    return rows
