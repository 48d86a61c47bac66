"""Progress on standard output: a bar on a terminal, otherwise lines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TextIO

from tqdm import tqdm

from training.telemetry.summary import score_text

_LINE_SECONDS = 10.0


def _count(value: float) -> str:
    """Returns a rounded number, such as "1.23M" for 1234567."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f}{unit}"
    return f"{value:.0f}"


def event_text(record: Mapping[str, Any]) -> str | None:
    """Returns an event as text; None for "step" events and those that are not shown."""
    kind = record["event"]
    if kind == "evaluation":
        return (
            f"step {record['step']}: {score_text(record)}, {record['samples']} samples in "
            f"{record['seconds']:.2f} s"
        )
    if kind == "checkpoint":
        return (
            f"checkpoint of step {record['step']}: {record['bytes']:,} bytes in "
            f"{record['seconds']:.2f} s, training waited {record['pause_seconds']:.3f} s"
        )
    if kind == "breakdown":
        return _breakdown_text(record)
    return record["text"] if kind == "message" else None


def _breakdown_text(breakdown: Mapping[str, Any]) -> str:
    total = breakdown["step_milliseconds"]
    lines = [f"  {'phase':<28} {'ms':>9} {'share':>7}"]
    for phase in breakdown["phases"]:
        share = phase["milliseconds"] / total
        lines.append(f"  {phase['name']:<28} {phase['milliseconds']:>9.3f} {share:>7.1%}")
    lines.append(f"  {'sum':<28} {total:>9.3f}")
    fused = breakdown["whole_milliseconds"]
    lines.append(f"  {'fused step':<28} {fused:>9.3f} {fused / total:>7.1%} of the sum")
    return "\n".join(lines)


def _loss(record: Mapping[str, Any], digits: int) -> str:
    # None if all steps since the previous event were skipped.
    return "n/a" if record["loss"] is None else f"{record['loss']:.{digits}f}"


class ProgressBar:
    """A bar with step, loss, last AUC, samples/s, learning rate and time left."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm | None = None
        self._auc: float | None = None

    def event(self, record: Mapping[str, Any]) -> None:
        """Updates the bar, or prints a line above it."""
        kind = record["event"]
        if kind == "config":
            self._bar = tqdm(
                total=record["steps"], file=self._stream, unit="step", dynamic_ncols=True,
                smoothing=0.1, initial=record["resumed_from_step"] or 0,
            )  # fmt: skip
        elif kind == "step" and self._bar is not None:
            fields = {"loss": _loss(record, 5)}
            if self._auc is not None:
                fields["AUC"] = f"{self._auc:.5f}"
            fields["samples/s"] = _count(record["samples_per_second"])
            fields["lr"] = f"{record['learning_rate']:.4g}"
            self._bar.set_postfix(fields, refresh=False)
            self._bar.update(record["step"] - self._bar.n)
        elif kind == "evaluation":
            self._auc = record["auc"]
        elif kind == "end":
            self.close()
        text = event_text(record)
        if text is not None and self._bar is not None:
            self._bar.write(text, file=self._stream)
        elif text is not None:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Leaves the bar on the terminal in its last state."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class ProgressLines:
    """Lines for logs: every `print_interval` steps, or about every ten seconds."""

    def __init__(self, stream: TextIO, print_interval: int | None = None) -> None:
        self._stream = stream
        self._interval = print_interval
        self._total = 0
        self._next_time = 0.0

    def event(self, record: Mapping[str, Any]) -> None:
        """Prints the event; a "step" event only if a line is due."""
        kind = record["event"]
        if kind == "config":
            self._total = record["steps"]
            self._next_time = time.monotonic()
        elif kind == "step" and self._due(record["step"]):
            self._next_time = time.monotonic() + _LINE_SECONDS
            left = (self._total - record["step"]) * record["seconds_per_step"]
            self._print(
                f"step {record['step']}/{self._total}  loss {_loss(record, 6)}  "
                f"{_count(record['samples_per_second'])} samples/s  "
                f"lr {record['learning_rate']:.4g}  {left:.0f} s left"
            )
        text = event_text(record)
        if text is not None:
            self._print(text)

    def close(self) -> None:
        """Does nothing."""

    def _due(self, step: int) -> bool:
        always = step == self._total or self._interval is not None
        return always or time.monotonic() >= self._next_time

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)
