"""The benchmark's results as JSON and as text."""

from __future__ import annotations

import os
import platform
import statistics
from typing import Any

from benchmarks.training import limit
from benchmarks.training.interleaved import Measured, best_product
from benchmarks.training.task import Task

PEERS = ("Keras", "TorchRec")
_COLUMNS = (
    "program", "precision", "batch", "samples/s", "lowest-highest", "/ ours", "/ Keras",
    "/ TorchRec", "limit", "share of limit",
)  # fmt: skip


def limits_of(task: Task, measured: Measured) -> dict[str, Any]:
    """Returns the rates of one precision's limit: medians over the rounds."""
    median, rounds = statistics.median, measured.limits
    rates = {
        name: median(one[name] for one in rounds)
        for name in ("copy_bytes_per_second", "row_reads_per_second", "row_updates_per_second")
    }
    products = {
        precision: {
            library: median(one["products"][precision][library] for one in rounds)
            for library in libraries
        }
        for precision, libraries in rounds[0]["products"].items()
    }
    fastest = median(best_product(one, task.precision)[0] for one in rounds)
    chosen = statistics.mode(best_product(one, task.precision)[1] for one in rounds)
    return {
        **rates,
        "matrix_products": products,
        "flops_per_second": fastest,
        "flops_per_second_of": chosen,
        "train_flops_per_sample": limit.train_flops(task),
        "forward_flops_per_sample": limit.forward_flops(task),
        "rows_read_per_sample": sum(task.ids),
        "rows_updated_per_sample": sum(task.ids),
    }


def with_best_peer(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds "best_peer" (same precision and batch, or None) and "ratio" over it to the rows."""
    for row in rows:
        peers = {
            other["program"]: other["samples_per_second"]
            for other in rows
            if other["program"] in PEERS
            and other["program"] in row["ratios"]
            and (other["precision"], other["batch"]) == (row["precision"], row["batch"])
        }
        best = max(peers, key=lambda name: peers[name]) if peers else None
        row["best_peer"] = best
        row["ratio"] = row["ratios"][best] if best else None
    return rows


def machine() -> dict[str, Any]:
    """Returns facts about the machine and its load before the run."""
    with open("/proc/meminfo", encoding="ascii") as info:
        total = int(info.readline().split()[1]) * 1024
    return {
        "memory_bytes": total,
        "system": f"{platform.system()} {platform.release()}",
        "load_average_at_start": os.getloadavg()[0],
    }


def text(report: dict[str, Any]) -> str:
    """Returns the report as readable text."""
    host, model = report["machine"], report["model"]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = [
        f"{host['processor']}, {host['cores']} cores, {host['memory_bytes'] / 2**30:.0f} GiB; "
        f"load average at the start {host['load_average_at_start']:.1f}",
        f"{len(model['vocab_sizes'])} tables of {model['table_bytes'] / 1e9:.2g} GB, "
        f"D = {model['dimension']}, {model['ids']} uniform ids a sample, {model['interaction']}; "
        f"medians of {report['rounds']} rounds; {versions}",
        f"command: {report['command']}",
    ]
    lines += [_limit_line(precision, found) for precision, found in report["limits"].items()]
    lines += ["", "| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in report["rows"]]
    lines += [""]
    busiest = max((row["other_cores_busy"] for row in report["rows"]), default=0.0)
    lines += [f"other load on this machine: up to {busiest:.2f} cores (median of a row)"]
    for found in report["phases"]:
        lines += ["", *_phase_lines(found)]
    for one in report["missing"]:
        of = ", ".join(filter(None, (one["program"], one["precision"])))
        lines += [f"{of}: not measured: {one['why']}"]
    return "\n".join(lines)


def _limit_line(precision: str, found: dict[str, Any]) -> str:
    products = ", ".join(
        f"{library} {name} {rate / 1e9:.0f}"
        for name, libraries in found["matrix_products"].items()
        for library, rate in libraries.items()
    )
    return (
        f"limit, {precision}: {found['train_flops_per_sample'] / 1e6:.2f} MFLOP per sample at "
        f"{found['flops_per_second'] / 1e9:.0f} GFLOP/s ({found['flops_per_second_of']}; measured: "
        f"{products}), then {found['rows_read_per_sample']} rows read at "
        f"{found['row_reads_per_second'] / 1e6:.1f} M/s and rewritten at "
        f"{found['row_updates_per_second'] / 1e6:.1f} M/s; copy "
        f"{found['copy_bytes_per_second'] / 1e9:.1f} GB/s"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    def ratio(name: str) -> str:
        return f"{row['ratios'][name]:.2f}" if name in row["ratios"] else "-"

    return [
        row["program"],
        row["precision"],
        str(row["batch"]),
        f"{row['samples_per_second']:,.0f}",
        f"{min(row['rounds']):,.0f}-{max(row['rounds']):,.0f}",
        ratio("ours"),
        *(ratio(peer) for peer in PEERS),
        f"{row['limit_samples_per_second']:,.0f}",
        f"{row['share_of_limit']:.0%}",
    ]


def _phase_lines(found: dict[str, Any]) -> list[str]:
    lines = [
        f"breakdown of a step: {found['program']}, {found['precision']}, batch {found['batch']}: "
        f"normal step {found['whole_milliseconds']:.1f} ms, "
        f"sum of phases {found['step_milliseconds']:.1f} ms"
    ]
    for phase in found["phases"]:
        share = phase["milliseconds"] / found["step_milliseconds"]
        lines.append(f"  {phase['name']:28s} {phase['milliseconds']:9.2f} ms {share:5.0%}")
    return lines
