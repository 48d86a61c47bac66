"""Draws `training.telemetry.report.layers.Plot`s with matplotlib, as SVG or PNG."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any, Union

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from storage import atomic
from training.telemetry.report import palette, svg, targets
from training.telemetry.report.layers import Layer, Plot

# Width and height in inches.
WIDE, NARROW = (6.0, 3.5), (3.75, 3.1)
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.edgecolor": palette.MUTED,
    "axes.labelcolor": palette.INK,
    "axes.facecolor": palette.CARD,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": palette.MUTED,
    "ytick.color": palette.MUTED,
    "figure.facecolor": palette.CARD,
    "grid.color": palette.GRID,
    "legend.frameon": False,
    "legend.labelcolor": palette.INK,
}
_NAME_LETTERS = 44
# A layer, or (phase, index) of a bar.
LegendEntry = Union[Layer, tuple[str, int]]


def to_svg(plot: Plot, prefix: str, narrow: bool) -> tuple[str, tuple[float, float, float, float]]:
    """Draws a plot for the page.

    Args:
        plot: a `Plot` that is not empty.
        prefix: prefix of the SVG ids, unique on the page.
        narrow: use the size for phones.

    Returns:
        (SVG text, (left, right, lowest x, highest x)): the edges of the axes as fractions of the
        width, and their data limits.
    """
    with matplotlib.rc_context(_STYLE):
        width, height = NARROW if narrow else WIDE
        if plot.bars:
            height = 0.75 + 0.55 * len(plot.bars)
        figure = Figure(figsize=(width, height), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes, plot, narrow)
        text = io.StringIO()
        canvas.print_svg(text)
        box, (low, high) = axes.get_position(), axes.get_xlim()
    edges = (box.x0, box.x1, float(low), float(high))
    return svg.inline(text.getvalue(), prefix, plot.title), edges


def write_png(plots: Sequence[Plot], path: str | os.PathLike, columns: int = 1) -> None:
    """Draws plots that are not empty into one PNG file, each with its legend, row by row.

    Raises:
        OSError: the file cannot be written.
    """
    rows = -(-len(plots) // columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.0 * columns, 4.0 * rows), layout="constrained", dpi=100)
        FigureCanvasAgg(figure)
        for part, plot in zip(figure.subfigures(rows, columns, squeeze=False).flat, plots):
            axes = part.add_subplot()
            draw(axes, plot, narrow=False)
            axes.set_title(plot.title, color=palette.INK, fontsize=11, loc="left")
            handles = [_handle(entry) for entry in legend(plot)]
            if handles:
                part.legend(handles=handles, loc="outside lower left", fontsize=8,
                            ncols=2 if len(handles) > 2 else 1)  # fmt: skip
        with atomic.replacing_name(path) as partial:
            figure.savefig(partial, format="png", metadata={"Software": targets.PROGRAM})


def draw(axes: Axes, plot: Plot, narrow: bool) -> None:
    """Draws a plot into matplotlib axes."""
    if plot.bars:
        _draw_bars(axes, plot, narrow)
    for layer in plot.layers:
        _draw_layer(axes, layer)
    if plot.x_limits:
        axes.set_xlim(plot.x_limits)
    elif plot.layers:
        axes.set_xlim(left=0)
    if plot.y_limits:
        axes.set_ylim(plot.y_limits)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.grid(True, axis="x" if plot.bars else "y", linewidth=0.8)
    axes.tick_params(length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 8))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    if not plot.bars:
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))


def _draw_layer(axes: Axes, layer: Layer) -> None:
    common = {"color": layer.colour, "alpha": layer.alpha}
    if layer.kind == "spans":
        for begin, end in zip(layer.x, layer.y):
            axes.axvspan(begin, end, linewidth=0, **common)
    elif layer.kind == "level":
        axes.axhline(layer.y[0], linestyle=layer.dash, linewidth=layer.width, **common)
    elif layer.kind == "marks":
        axes.plot(layer.x, layer.y, layer.marker or "", markersize=5, clip_on=False,
                  transform=axes.get_xaxis_transform(), **common)  # fmt: skip
    elif layer.kind == "points":
        axes.plot(layer.x, layer.y, layer.marker or "", markersize=6.5, markeredgewidth=1.0,
                  markeredgecolor=palette.CARD, zorder=3, **common)  # fmt: skip
    else:
        axes.plot(layer.x, layer.y, marker=layer.marker, markersize=5, linestyle=layer.dash,
                  linewidth=layer.width, drawstyle="steps-post" if layer.step else "default",
                  **common)  # fmt: skip


def _draw_bars(axes: Axes, plot: Plot, narrow: bool) -> None:
    letters = 34 if narrow else 68
    for row, (name, phases) in enumerate(plot.bars):
        left = 0.0
        for _, milliseconds, number in phases:
            axes.barh(row, milliseconds, 0.5, left, color=palette.colour(number),
                      hatch=palette.hatch(number), edgecolor=palette.CARD,
                      linewidth=0.4)  # fmt: skip
            left += milliseconds
        if len(plot.bars) > 1:
            axes.text(0, row - 0.3, short(name, letters), va="bottom", color=palette.INK)
    axes.set_ylim(len(plot.bars) - 0.6, -0.75 if len(plot.bars) > 1 else -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def short(name: str, letters: int = _NAME_LETTERS) -> str:
    """Returns a name, shortened in the middle to at most `letters` characters."""
    if len(name) <= letters:
        return name
    half = (letters - 1) // 2
    return f"{name[:half]}\u2026{name[-half:]}"


def legend(plot: Plot) -> list[LegendEntry]:
    """Returns the legend's entries: labelled layers, and (phase, index) of bars, each once."""
    entries: dict[str, LegendEntry] = {
        layer.label: layer for layer in plot.layers if layer.label is not None
    }
    for _, phases in plot.bars:
        entries.update({name: (name, number) for name, _, number in phases})
    return list(entries.values())


def _handle(entry: LegendEntry) -> Patch | Line2D:
    if isinstance(entry, tuple):
        return Patch(facecolor=palette.colour(entry[1]), edgecolor=palette.CARD,
                     hatch=palette.hatch(entry[1]), label=" " + short(entry[0]))  # fmt: skip
    lone = entry.kind in ("points", "marks")
    # matplotlib omits labels that begin with an underscore.
    label = " " + short(entry.label or "")
    # matplotlib's type stubs do not allow an arbitrary dash.
    style: Any = "none" if lone else entry.dash
    return Line2D([], [], color=entry.colour, linestyle=style,
                  marker=entry.marker, markersize=5, label=label)  # fmt: skip
