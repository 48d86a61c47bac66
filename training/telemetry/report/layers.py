"""A plot as data: layers of numbers, before anything is drawn."""

from __future__ import annotations

import dataclasses
from typing import Union

# A line style as matplotlib takes it: "-", or (offset, lengths of dashes and gaps in points).
Dash = Union[str, tuple[float, tuple[float, ...]]]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One thing on a plot.

    Attributes:
        kind: "line"; "points"; "marks" (y is a fraction of the height); "spans" (from x to y);
            "level" (a line across at y[0]).
        x, y: numbers in the plot's units.
        colour: one of `training.telemetry.report.palette`.
        label: for the legend; None leaves it out there.
        dash, width, alpha, marker: as matplotlib takes them.
        step: hold each y until the next x.
        hover: name of its points under the pointer, or None.
    """

    kind: str
    x: list[float]
    y: list[float]
    colour: str
    label: str | None = None
    dash: Dash = "-"
    width: float = 1.8
    alpha: float = 1.0
    marker: str | None = None
    step: bool = False
    hover: str | None = None


@dataclasses.dataclass(frozen=True)
class Plot:
    """One plot.

    Attributes:
        key: its name in links and files.
        title, x_label, y_label: axes are named with their units.
        layers: what is drawn; empty if there is nothing to draw.
        note: a remark below the plot; the reason if it is empty.
        x_limits, y_limits: (low, high), or None.
        bars: stacked bars instead of layers: [(run's name, [(phase, milliseconds, its number)])].
    """

    key: str
    title: str
    x_label: str
    y_label: str
    layers: tuple[Layer, ...] = ()
    note: str = ""
    x_limits: tuple[float, float] | None = None
    y_limits: tuple[float, float] | None = None
    bars: tuple[tuple[str, list[tuple[str, float, int]]], ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.layers and not self.bars
