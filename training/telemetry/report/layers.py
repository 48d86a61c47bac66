"""A plot as data: layers of numbers, before anything is drawn."""

import dataclasses


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
        hover: what to call its points where the pointer is, or None.
    """

    kind: str
    x: list
    y: list
    colour: str
    label: "str | None" = None
    dash: "str | tuple" = "-"
    width: float = 1.8
    alpha: float = 1.0
    marker: "str | None" = None
    step: bool = False
    hover: "str | None" = None


@dataclasses.dataclass(frozen=True)
class Plot:
    """One plot.

    Attributes:
        key: its name in links and files.
        title, x_label, y_label: axes are named with their units.
        layers: what is drawn; empty if there is nothing to draw.
        note: what the reader should know, below the plot; why it is empty, where it is.
        x_limits, y_limits: (low, high), or None.
        bars: stacked bars instead of layers: [(run's name, [(phase, milliseconds, its number)])].
    """

    key: str
    title: str
    x_label: str
    y_label: str
    layers: tuple = ()
    note: str = ""
    x_limits: "tuple | None" = None
    y_limits: "tuple | None" = None
    bars: tuple = ()

    @property
    def empty(self):
        """Whether there is nothing to draw."""
        return not self.layers and not self.bars
