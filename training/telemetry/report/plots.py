"""Makes the report's plots from runs."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from training.telemetry.report import palette, published, series
from training.telemetry.report.layers import Layer, Plot
from training.telemetry.report.runs import Run


def make_plots(runs: Sequence[Run]) -> list[Plot]:
    """Returns the report's plots, empty ones last."""
    plots = [_auc(runs), _loss(runs), _throughput(runs), _memory(runs), _breakdown(runs),
             _learning_rate(runs)]  # fmt: skip
    return sorted(plots, key=lambda plot: plot.empty)


def _max_samples(runs: Sequence[Run], kinds: Iterable[str]) -> int:
    return max((e["samples"] for r in runs for k in kinds for e in r.of(k)), default=1)


def _smoothed(
    number: int,
    run: Run,
    events: Sequence[dict[str, Any]],
    field: str,
    scale: tuple[str, float],
    weight: str,
    unit: str,
    value_scale: float = 1.0,
) -> tuple[tuple[Layer, ...], str, list[float]]:
    """Returns (pale and bold layer of a noisy line, a note on the thinning, thinned values)."""
    kept = [e for e in events if e[field] is not None and math.isfinite(e[field])]
    x, y, weights, size = series.thin(
        [e[scale[0]] / scale[1] for e in kept],
        [e[field] / value_scale for e in kept],
        [max(e[weight], 1e-12) for e in kept],
    )
    if not len(x):
        return (), "", []
    mean, window = series.running_mean(y, weights)
    colour = palette.colour(number)
    layers = (
        Layer("line", list(x), list(y), colour, width=0.8, alpha=0.35),
        Layer("line", list(x), list(mean), colour, run.name, palette.dash(number),
              hover=f"{run.name}: {unit}"),
    )  # fmt: skip
    points = "each report of the journal" if size == 1 else f"mean of {size:,} reports"
    return layers, f"Pale: {points}; bold: running mean of {window:,} points.", list(y)


def _loss(runs: Sequence[Run]) -> Plot:
    size, unit = series.sample_unit(_max_samples(runs, ("step", "evaluation")))
    layers, values, tested, notes = [], [], [], {}
    for number, run in enumerate(runs):
        drawn, note, y = _smoothed(
            number, run, run.of("step"), "loss", ("samples", size), "covers_steps", "training loss"
        )
        layers += drawn
        values += y
        notes[note] = None
        scores = [e for e in run.of("evaluation") if math.isfinite(e["log_loss"])]
        if scores:
            tested += [e["log_loss"] for e in scores]
            layers.append(
                Layer("points", [e["samples"] / size for e in scores],
                      [e["log_loss"] for e in scores], palette.colour(number),
                      f"{run.name}, test data", marker=palette.marker(number),
                      hover=f"{run.name}: test log loss")
            )  # fmt: skip
    low, high, above = series.limits(values, tested)
    note = " ".join(notes)
    if above:
        points = "1 point is" if above == 1 else f"{above:,} points are"
        note += f" {points} above the axis, up to {max(values):.4g}."
    return Plot("loss", "Loss", unit, "log loss (nats per sample)", tuple(layers),
                note if layers else "The journal has no step event.",
                y_limits=(low, high))  # fmt: skip


def _auc(runs: Sequence[Run]) -> Plot:
    most = _max_samples(runs, ("evaluation",))
    # {benchmark: batches of its runs}
    terabyte: dict[str, tuple[published.Benchmark, list[int]]] = {}
    for run in filter(published.is_terabyte, runs):
        found = published.benchmark(run)
        terabyte.setdefault(found.name, (found, []))[1].append(run.batch)
    for found, _ in terabyte.values():
        first = published.curve_points(next(iter(found.curves.values())))[0]
        most = max(first[-1] if most > first[3] else first[3], most)
    size, unit = series.sample_unit(most)
    layers = []
    for number, run in enumerate(runs):
        scores = [e for e in run.of("evaluation") if math.isfinite(e["auc"])]
        if scores:
            layers.append(
                Layer("line", [e["samples"] / size for e in scores], [e["auc"] for e in scores],
                      palette.colour(number), run.name, palette.dash(number),
                      marker=palette.marker(number), hover=f"{run.name}: AUC")
            )  # fmt: skip
    reached = {}
    for number, run in enumerate(runs):
        if run.result is not None and run.result.get("attainable_auc") is not None:
            reached.setdefault(run.result["attainable_auc"], number)
    for value in reached:
        layers.append(
            Layer("level", [], [value], palette.MUTED, f"attainable on this data: {value:.4f}",
                  (0, (1, 2)), 1.4)
        )  # fmt: skip
    for found, batches in terabyte.values():
        layers += _published_auc(found, batches, size)
    if terabyte:
        rates = " and ".join(f"{found.learning_rate:g}" for found, _ in terabyte.values())
        note = ("Grey: test AUC after each 5 % of the epoch, from MLPerf result logs "
                f"(global batch 55,296, learning rate {rates}).")  # fmt: skip
    else:
        note = ("The data is not Criteo Terabyte: the published curves (MLPerf, AUC 0.8025) are "
                "not comparable and not shown.")  # fmt: skip
    scored = any(run.of("evaluation") for run in runs)
    if not scored:
        note = f"The journal has no evaluation event. {note if terabyte else ''}"
    limit = (0, most / size * 1.03)
    return Plot("auc", "AUC on the test data", unit, "area under the ROC curve",
                tuple(layers) if scored or terabyte else (), note, x_limits=limit)  # fmt: skip


def _published_auc(
    benchmark: published.Benchmark, batches: Sequence[int], size: float
) -> list[Layer]:
    """Returns the layers of a benchmark's submissions, target and reference convergence."""
    layers, dashes = [], ((0, (5, 2)), (0, (7, 2, 1, 2)))
    for (name, aucs), dash in zip(benchmark.curves.items(), dashes):
        x, y = published.curve_points(aucs)
        layers.append(
            Layer("line", [v / size for v in x], y, palette.MUTED, name, dash, 1.4, hover=name)
        )
    points = (published.convergence_points(benchmark, batch) for batch in batches)
    for name, samples in dict(filter(None, points)).items():
        layers.append(
            Layer("points", [v / size for v in samples], [benchmark.target] * len(samples),
                  palette.MUTED, name, marker="D", hover=name)
        )  # fmt: skip
    layers.append(
        Layer("level", [], [benchmark.target], palette.INK, f"MLPerf's target: {benchmark.target}",
              (0, (1, 2)), 1.2)
    )  # fmt: skip
    return layers


def _throughput(runs: Sequence[Run]) -> Plot:
    timed = [
        sorted(
            (e for e in [*run.of("step"), *run.redone] if e["samples_per_second"] > 0),
            key=lambda e: e["clock"],
        )
        for run in runs
    ]
    ends = [e["clock"] + e["seconds"] for run in runs for e in run.of("evaluation")]
    seconds, time_name = series.time_unit(
        max([*ends, *(e["clock"] for events in timed for e in events)], default=1)
    )
    rate, rate_name = series.rate_unit(
        max((e["samples_per_second"] for events in timed for e in events), default=1)
    )
    layers, values, note = [], [], ""
    for number, (run, events) in enumerate(zip(runs, timed)):
        drawn, remark, y = _smoothed(
            number, run, events, "samples_per_second", ("clock", seconds), "covers_seconds",
            rate_name, rate,
        )  # fmt: skip
        note = note or remark
        gaps = [clock / seconds for clock, _ in run.resumes]
        drawn = [dataclasses.replace(d, **_broken(d, gaps)) for d in drawn]
        layers += drawn
        values += y
        layers += _event_layers(number, run, seconds)
    if not values:
        return Plot("throughput", "Throughput", "", "", note="The journal has no step times.")
    high = series.limits(values)[1]
    return Plot("throughput", "Throughput", f"{time_name} of run time", rate_name, tuple(layers),
                f"{note} Shaded: evaluations, which do not count.",
                y_limits=(0, high * 1.12))  # fmt: skip


def _broken(layer: Layer, gaps: Sequence[float]) -> dict[str, list[float]]:
    """Returns a layer's x and y with a NaN at each gap, which interrupts the line."""
    x, y = list(layer.x), list(layer.y)
    for gap in gaps:
        at = bisect.bisect_right(x, gap)
        x.insert(at, gap)
        y.insert(at, math.nan)
    return {"x": x, "y": y}


def _event_layers(number: int, run: Run, seconds: float) -> list[Layer]:
    """Returns layers that mark a run's evaluations, checkpoints and resumes on the time axis."""
    colour, height = palette.colour(number), 0.04 + 0.05 * (number % 8)
    layers = []
    scores = run.of("evaluation")
    if scores:
        begin = [e["clock"] / seconds for e in scores]
        layers.append(
            Layer("spans", begin, [(e["clock"] + e["seconds"]) / seconds for e in scores], colour,
                  alpha=0.14)
        )  # fmt: skip
    for x, label, marker in (
        ([e["clock"] for e in scores], "evaluations", "D"),
        ([e["clock"] for e in run.of("checkpoint")], "checkpoints", "^"),
        ([clock for clock, _ in run.resumes], "resumed", ">"),
    ):
        if x:
            layers.append(
                Layer("marks", [v / seconds for v in x], [height] * len(x), colour,
                      f"{run.name}, {label}", marker=marker)
            )  # fmt: skip
    return layers


def _memory(runs: Sequence[Run]) -> Plot:
    size, unit = series.sample_unit(_max_samples(runs, ("memory",)))
    peaks = [
        e[name] for r in runs for e in r.of("memory")
        for name in ("peak_resident_bytes", "peak_gpu_bytes") if e[name] is not None
    ]  # fmt: skip
    if not peaks:
        return Plot("memory", "Memory", "", "", note="The journal has no memory event.")
    scale, name = series.byte_unit(max(peaks))
    layers = []
    for number, run in enumerate(runs):
        for field, where, dash in (
            ("peak_resident_bytes", "main memory", palette.dash(number)),
            ("peak_gpu_bytes", "GPU", (0, (5, 2))),
        ):
            measured = [e for e in run.of("memory") if e[field] is not None]
            if measured:
                label = f"{run.name}, {where}"
                layers.append(
                    Layer("line", [e["samples"] / size for e in measured],
                          [e[field] / scale for e in measured], palette.colour(number), label, dash,
                          marker=palette.marker(number), step=True, hover=f"{label}: {name}")
                )  # fmt: skip
    return Plot("memory", "Memory", unit, f"peak so far of rank 0 ({name})", tuple(layers),
                "Peak memory use of rank 0 so far.",
                y_limits=(0, max(peaks) / scale * 1.12))  # fmt: skip


def _learning_rate(runs: Sequence[Run]) -> Plot:
    size, unit = series.sample_unit(_max_samples(runs, ("step",)))
    layers = []
    for number, run in enumerate(runs):
        steps = run.of("step")
        if steps:
            x, y, _, _ = series.thin(
                [e["samples"] / size for e in steps], [e["learning_rate"] for e in steps],
                [1.0] * len(steps),
            )  # fmt: skip
            layers.append(
                Layer("line", list(x), list(y), palette.colour(number), run.name,
                      palette.dash(number), hover=f"{run.name}: learning rate")
            )  # fmt: skip
    return Plot("learning-rate", "Learning rate", unit, "learning rate", tuple(layers),
                "" if layers else "The journal has no step event.")  # fmt: skip


def _breakdown(runs: Sequence[Run]) -> Plot:
    names = []
    for run in runs:
        for event in run.of("breakdown")[-1:]:
            names += [p["name"] for p in event["phases"] if p["name"] not in names]
    bars = tuple(
        (run.name, [
            (p["name"], p["milliseconds"], names.index(p["name"]))
            for p in run.of("breakdown")[-1]["phases"]
        ])
        for run in runs if run.of("breakdown")
    )  # fmt: skip
    note = "No journal has a breakdown event: train with --step_breakdown."
    return Plot("breakdown", "Where a step's time goes", "milliseconds per step", "", bars=bars,
                note="" if bars else note)  # fmt: skip
