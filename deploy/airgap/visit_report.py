"""Summarises the runs of a visit to a GPU host: `python3 -m deploy.airgap.visit_report RUNS`.

RUNS/NAME/TIME/journal.jsonl is the journal of run NAME (docs/journal.md). Prints a line per run,
and with `--json` writes all numbers. Needs no TensorFlow.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from storage.arguments import first_paragraph


def summary(journal: pathlib.Path) -> dict[str, Any]:
    """Returns the results of a run; a run that did not complete has only the last step's.

    Args:
        journal: path of its journal.jsonl.

    Returns:
        {"completed", "steps", "loss", "samples_per_second", "gpu"} and, if the journal has them,
        "peak_gpu_bytes" (after an evaluation), "auc", "phases" ({name: milliseconds}) and
        "whole_milliseconds" of a fused step.

    Raises:
        ValueError: a line is not JSON.
    """
    found: dict[str, Any] = {"completed": False}
    for line in journal.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        kind = event["event"]
        if kind == "config":
            found["gpu"] = event["versions"]["gpu"]
        elif kind == "step":
            found["steps"] = event["step"]
            found.update({key: event[key] for key in ("loss", "samples_per_second")})
        elif kind == "memory":
            found["peak_gpu_bytes"] = event["peak_gpu_bytes"]
        elif kind == "breakdown":
            found["phases"] = {p["name"]: p["milliseconds"] for p in event["phases"]}
            found["whole_milliseconds"] = event["whole_milliseconds"]
        elif kind == "end":
            # Over the whole run, without the first step.
            keys = ("steps", "loss", "samples_per_second", "auc")
            found.update({key: event[key] for key in keys}, completed=True)
    return found


def line_of(name: str, found: Mapping[str, Any]) -> str:
    """Returns the printed line of one run."""
    words = [f"{name}: {'completed' if found['completed'] else 'NOT completed'}"]
    if found.get("samples_per_second"):
        words.append(f"{found['samples_per_second'] / 1e6:.3f} M samples/s")
    if found.get("loss") is not None:
        words.append(f"loss {found['loss']:.6f} at step {found['steps']}")
    if found.get("peak_gpu_bytes"):
        words.append(f"peak GPU memory {found['peak_gpu_bytes'] / 2**30:.2f} GiB")
    if "phases" in found:
        phases = (f"{name} {ms:.3f}" for name, ms in found["phases"].items())
        words.append(f"phases in ms: {', '.join(phases)}; fused {found['whole_milliseconds']:.3f}")
    return ", ".join(words)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints and writes the summary; returns the exit code."""
    parser = argparse.ArgumentParser(description=first_paragraph(__doc__))
    parser.add_argument("runs", type=pathlib.Path, help="folder with a folder for each run")
    parser.add_argument("--json", type=pathlib.Path, help="also write all numbers to this file")
    options = parser.parse_args(arguments)
    found = {}
    # `latest` is a link to another folder.
    for path in sorted(options.runs.glob("*/*/journal.jsonl")):
        if not path.parent.is_symlink():
            name = path.parents[1].name
            found[name] = summary(path)
            print(line_of(name, found[name]))
    if not found:
        print(f"visit_report: {options.runs}: expected */*/journal.jsonl, found none",
              file=sys.stderr)  # fmt: skip
        return 1
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
