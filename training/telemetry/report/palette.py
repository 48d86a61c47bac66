"""Colours in light and dark, told apart with any colour vision; each run has a marker too."""

from __future__ import annotations

from training.telemetry.report.layers import Dash

# (CSS variable, light, dark). The light ones are also what pictures are drawn with, so that each
# must be unique: `training.telemetry.report.svg` finds them by their value.
ROLES = (
    ("ink", "#1f2429", "#e6e9ec"),
    ("muted", "#59616a", "#a3abb4"),
    ("grid", "#dde1e5", "#373d45"),
    ("card", "#ffffff", "#1a1e23"),
    ("page", "#f3f5f7", "#101316"),
)
# After Okabe and Ito, darkened for white and lightened for black.
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

INK, MUTED, GRID, CARD, PAGE = (light for _, light, _ in ROLES)


def colour(number: int) -> str:
    """Returns the colour of the run or phase with this number, from 0."""
    return SERIES[number % len(SERIES)][1]


def marker(number: int) -> str:
    """Returns the marker of the run with this number, from 0."""
    return MARKERS[number % len(MARKERS)]


def dash(number: int) -> Dash:
    """Returns the line style of the run with this number.

    Four colours are well apart with any colour vision; the next four runs are dashed as well.
    """
    return DASHES[number // 4 % len(DASHES)]


def hatch(number: int) -> str:
    """Returns the hatching of the phase with this number: it is new where colours repeat."""
    return HATCHES[number // len(SERIES) % len(HATCHES)]


def variables() -> dict[str, str]:
    """Returns {light colour: CSS variable's name}."""
    return {light: f"--{name}" for name, light, _ in (*ROLES, *SERIES)}


def css(dark: bool) -> str:
    """Returns the declarations of all variables for one mode."""
    return " ".join(
        f"--{name}: {black if dark else white};" for name, white, black in (*ROLES, *SERIES)
    )
