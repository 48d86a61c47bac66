"""Colours for light and dark mode, distinguishable with colour blindness; markers and dashes."""

from __future__ import annotations

from training.telemetry.report.layers import Dash

# (CSS variable, light, dark). Plots are drawn in the light colours. These must be unique, because
# `training.telemetry.report.svg` replaces them by value.
ROLES = (
    ("ink", "#1f2429", "#e6e9ec"),
    ("muted", "#59616a", "#a3abb4"),
    ("grid", "#dde1e5", "#373d45"),
    ("card", "#ffffff", "#1a1e23"),
    ("page", "#f3f5f7", "#101316"),
)
# The palette of Okabe and Ito, darkened for white and lightened for black backgrounds.
SERIES = (
    ("s0", "#0068a8", "#5cb4ec"),
    ("s1", "#c94f00", "#ff9150"),
    ("s2", "#00855f", "#36cfa0"),
    ("s3", "#a94a7f", "#ec9fcb"),
    ("s4", "#9a7400", "#f2c14e"),
    ("s5", "#3d8fc4", "#a9d8f5"),
    ("s6", "#6f6f12", "#d2cf62"),
    ("s7", "#767c84", "#bcc2c9"),
)
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))

HATCHES = ("", "////", "....")

INK, MUTED, GRID, CARD, _ = (light for _, light, _ in ROLES)


def colour(number: int) -> str:
    """Returns the colour of run or phase `number`, from 0."""
    return SERIES[number % len(SERIES)][1]


def marker(number: int) -> str:
    """Returns the marker of run `number`, from 0."""
    return MARKERS[number % len(MARKERS)]


def dash(number: int) -> Dash:
    """Returns the line style of run `number`: it changes every four runs.

    Only four colours are easy to distinguish with any colour vision.
    """
    return DASHES[number // 4 % len(DASHES)]


def hatch(number: int) -> str:
    """Returns the hatching of phase `number`: it changes when colours repeat."""
    return HATCHES[number // len(SERIES) % len(HATCHES)]


def variables() -> dict[str, str]:
    """Returns {light colour: CSS variable}."""
    return {light: f"--{name}" for name, light, _ in (*ROLES, *SERIES)}


def css(dark: bool) -> str:
    """Returns the CSS declarations of all variables in one mode."""
    return " ".join(
        f"--{name}: {black if dark else white};" for name, white, black in (*ROLES, *SERIES)
    )
