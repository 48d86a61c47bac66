"""Combines plots and tables into one self-contained HTML page."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from storage.atomic import encode_json
from training.telemetry.report import drawing, facts, palette, published
from training.telemetry.report.layers import Plot
from training.telemetry.report.plots import make_plots
from training.telemetry.report.runs import Run

# Published runs shown at first; the others are folded.
_NEAREST = 6
_GLYPHS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼", "P": "✚", "X": "✖", "*": "★",
           ">": "▶"}  # fmt: skip


def render(runs: Sequence[Run]) -> str:
    """Returns the HTML page for at least one run."""
    folder = pathlib.Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    variables = palette.variables()
    return environment.get_template("page.html.jinja").render(
        runs=runs,
        light=Markup(palette.css(dark=False)),
        dark=Markup(palette.css(dark=True)),
        style=_plain(folder / "page.css"),
        script=_plain(folder / "hover.js"),
        colours=[variables[palette.colour(i)] for i in range(len(runs))],
        summary=facts.summary(runs),
        figures=[_figure(plot) for plot in make_plots(runs)],
        settings=facts.settings(runs),
        comparisons=[published.compare(run) for run in runs],
        nearest=_NEAREST,
        facts=facts,
        messages=[[e["text"] for e in run.of("message")] for run in runs],
    )


def _plain(path: pathlib.Path) -> Markup:
    # Safe as markup: a file of this package, without data from a run.
    return Markup(path.read_text(encoding="utf-8"))


def _figure(plot: Plot) -> dict[str, Any]:
    """Returns the template variables of a plot."""
    canvases = []
    if not plot.empty:
        for narrow in (False, True):
            kind = "narrow" if narrow else "wide"
            text, axes = drawing.to_svg(plot, f"{plot.key}-{kind}-", narrow)
            canvases.append((kind, Markup(text), encode_json(axes, indent=None)))
    return {
        "plot": plot,
        "canvases": canvases,
        "legend": [_swatch(entry) for entry in drawing.legend(plot)],
        "points": _script_json(_points(plot)),
    }


def _swatch(entry: drawing.LegendEntry) -> tuple[str, str | None, str, str | None]:
    """Returns a legend entry: (CSS variable, dash pattern or None for no line, glyph, label)."""
    names = palette.variables()
    if isinstance(entry, tuple):
        glyph = "▨" if palette.hatch(entry[1]) else "■"
        return names[palette.colour(entry[1])], None, glyph, entry[0]
    glyph = _GLYPHS.get(entry.marker or "", "")
    if entry.kind in ("points", "marks"):
        return names[entry.colour], None, glyph, entry.label
    dash = "" if entry.dash == "-" else " ".join(f"{2 * part:g}" for part in entry.dash[1])
    return names[entry.colour], dash, glyph, entry.label


def _points(plot: Plot) -> list[dict[str, Any]]:
    """Returns [{name, colour, x, y}] of the layers with `hover`."""
    names = palette.variables()
    lines = []
    for layer in plot.layers:
        if layer.hover is not None:
            finite = [(x, y) for x, y in zip(layer.x, layer.y) if math.isfinite(y)]
            lines.append({
                "name": layer.hover, "colour": f"var({names[layer.colour]})",
                "x": [float(f"{x:.7g}") for x, _ in finite],
                "y": [float(f"{y:.6g}") for _, y in finite],
            })  # fmt: skip
    return lines


def _script_json(value: Any) -> Markup:
    """Returns JSON in which no text can end the enclosing script element."""
    text = encode_json(value, indent=None)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)
