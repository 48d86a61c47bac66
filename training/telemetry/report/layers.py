"""Plots as data, independent of how they are drawn."""

from __future__ import annotations

import dataclasses
from typing import Union

# A matplotlib line style: "-", or (offset, lengths of dashes and gaps in points).
Dash = Union[str, tuple[float, tuple[float, ...]]]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A set of data drawn in one style.

    Attributes:
        kind: "line"; "points"; "marks" (y is a fraction of the height); "spans" (from x to y);
            "level" (a line across at y[0]).
        x, y: numbers in the plot's units.
        colour: one of `training.telemetry.report.palette`.
        label: legend entry, or None.
        dash, width, alpha, marker: as in matplotlib.
        step: hold each y until the next x.
        hover: name shown with the values under the pointer; None disables that.
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
        key: name in links and files.
        title, x_label, y_label: texts; axis labels include units.
        layers: the data; may be empty.
        note: a remark below the plot; why the plot is empty, if it is.
        x_limits, y_limits: (low, high), or None.
        bars: stacked bars instead of layers: [(run name, [(phase, milliseconds, index)])].
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
