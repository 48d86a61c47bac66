"""The facts that `python3 -m training.checkpoint inspect` prints about a checkpoint."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from training.checkpoint import manifest as manifests
from training.telemetry.summary import score_text

# Flags to print, in this order.
_SHOWN = (
    "embedding_dim", "bottom_mlp", "top_mlp", "interaction", "cross_layers", "cross_rank",
    "ablation", "global_batch_size", "epochs", "schedule", "lr", "embedding_lr", "optimizer",
    "optimizer_options", "embedding_optimizer", "embedding_optimizer_options",
    "embedding_gradient", "amp", "amp_dtype", "loss_scale", "seed", "shuffle_seed", "placement",
    "data_dir",
)  # fmt: skip


def describe(folder: str | os.PathLike, manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns a checkpoint's facts as a dictionary of JSON values.

    Args:
        folder: the checkpoint.
        manifest: its manifest (`training.checkpoint.manifest.read`).
    """
    flags = manifest["flags"]
    tables = [_table(manifest, table, rows) for table, rows in enumerate(manifest["vocab_sizes"])]
    return {
        "checkpoint": str(pathlib.Path(folder)),
        "step": manifest["step"],
        "epoch": manifest["epoch"],
        "written": manifest.get("written"),
        "ranks": manifest["ranks"],
        "embedding_dim": manifest["embedding_dim"],
        "bytes": sum(path.stat().st_size for path in pathlib.Path(folder).iterdir()),
        "tables": tables,
        "expected_transform": manifests.expected_transform(manifest),
        "dense": {name: entry["shape"] for name, entry in manifest["dense"].items()},
        "flags": {n: flags[n] for n in _SHOWN if flags.get(n) is not None},
        "data": manifest["data"],
        "versions": manifest["versions"],
        "evaluations": manifest["evaluations"],
    }


def as_text(facts: dict[str, Any]) -> str:
    """Returns the facts from `describe` as readable text."""
    versions, machine = dict(facts["versions"]), []
    for name, unit in (("processor", ""), ("cores", " cores"), ("gpu", "")):
        value = versions.pop(name, None)
        machine += [] if value is None else [f"{value}{unit}"]
    written = "" if facts["written"] is None else f", written {facts['written']}"
    lines = [
        f"{facts['checkpoint']}: step {facts['step']} ({facts['epoch']} complete epochs){written}",
        f"  {facts['ranks']} ranks, {facts['bytes']:,} bytes, versions "
        + ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        *([f"  written on {', '.join(machine)}"] if machine else []),
        "",
        f"  {'table':>7}{'rows':>14}{'parts':>8}{'bytes':>18}  states",
    ]
    lines += [
        f"  {t['table']:>7}{t['rows']:>14,}{t['parts']:>8}{t['bytes']:>18,}  "
        + ", ".join(t["states"])
        for t in facts["tables"]
    ]
    rows, size = (sum(t[key] for t in facts["tables"]) for key in ("rows", "bytes"))
    parts = sum(t["parts"] for t in facts["tables"])
    lines += [f"  {'all':>7}{rows:>14,}{parts:>8}{size:>18,}", "", "  dense variables"]
    lines += [f"    {name:<20} {shape}" for name, shape in facts["dense"].items()]
    transform = facts["expected_transform"] or "not recorded"
    lines += ["", f"  transform of dense counts: {transform}", "", "  flags"]
    lines += [f"    --{name}={value}" for name, value in facts["flags"].items()]
    lines += ["", "  evaluations" if facts["evaluations"] else "  no evaluation"]
    lines += [
        f"    step {e['step']}: {score_text(e)}, {e['samples']} samples"
        for e in facts["evaluations"]
    ]
    return "\n".join(lines)


def _table(manifest: dict[str, Any], table: int, rows: int) -> dict[str, Any]:
    parts = [entry for entry in manifest["tables"] if entry["table"] == table]
    states = sorted({entry["state"] for entry in parts}, reverse=True)
    return {
        "table": table,
        "rows": rows,
        # Each part has one file per state; count it once.
        "parts": sum(entry["state"] == "table" for entry in parts),
        "bytes": sum(manifests.array_bytes(entry) for entry in parts),
        "states": states,
    }
