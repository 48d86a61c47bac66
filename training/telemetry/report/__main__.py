"""Writes a report on one or more runs.

    python3 -m training.report RUN [RUN ...] [--output FILE] [--png FOLDER]

RUN is a folder with a journal.jsonl. Several runs share the plots. A run that resumed from a
checkpoint of an earlier RUN argument continues the lines of that run.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from dataset import command_line
from storage import atomic
from storage.install_advice import install_command
from training.runtime.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from training.telemetry.report import targets
from training.telemetry.report.layers import Plot
from training.telemetry.report.runs import Run, read_runs

# The plots of overview.png: the first four that are not empty.
_OVERVIEW = ("auc", "loss", "throughput", "breakdown", "memory", "learning-rate")
_OVERVIEW_PLOTS = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python3 -m training.report", description="Writes an HTML report on training runs."
    )
    add = parser.add_argument
    path = command_line.path
    add("runs", nargs="+", metavar="RUN", type=path, help="folder of a run, such as runs/latest")
    add("--output", metavar="FILE", type=path,
        help="HTML file to write [report.html in the first run's folder]")  # fmt: skip
    add("--png", metavar="FOLDER", type=path,
        help="also write each plot, and overview.png, to this folder")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        for line in write(options.runs, options.output, options.png):
            print(line)
    except UserError as error:
        print(f"report: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return EXIT_OK


def write(
    folders: Sequence[str | os.PathLike],
    output: str | os.PathLike | None = None,
    png: str | os.PathLike | None = None,
) -> list[str]:
    """Writes the page, and the plots as pictures if `png` is given.

    Args:
        folders: the runs' folders.
        output: path of the page; None for report.html in the first run's folder.
        png: folder for pictures, or None.

    Returns:
        A line of text for each file written.

    Raises:
        UserError: a folder is not a run, or a file cannot be written. Only earlier reports are
            replaced; any other existing file is an error, found before anything is written.
    """
    runs = read_runs(folders)
    try:
        # Imports matplotlib, which takes a second.
        from training.telemetry.report import drawing, page
    except ModuleNotFoundError as error:
        raise UserError(
            f"the package {error.name} is missing: " + install_command("jinja2", "matplotlib")
        ) from error

    path = pathlib.Path(output) if output is not None else pathlib.Path(folders[0], "report.html")
    try:
        pictures = {} if png is None else _pictures(runs, pathlib.Path(png))
        for target in (path, *pictures):
            targets.check(target)
        for target in (path, *pictures):
            target.parent.mkdir(parents=True, exist_ok=True)
        text = page.render(runs)
        with atomic.replacing(path) as file:
            file.write(text.encode())
        lines = [f"{path}: {len(runs)} run{'s' if len(runs) > 1 else ''}, {len(text):,} characters"]
        for picture, plots in pictures.items():
            drawing.write_png(plots, picture, columns=min(2, len(plots)))
            lines.append(f"{picture}: {picture.stat().st_size:,} bytes")
    except FileExistsError as error:  # From mkdir.
        raise UserError.of_path(error.filename, "expected a folder, found a file") from error
    except OSError as error:
        problem = f"cannot be written: {error.strerror}"
        raise UserError.of_path(error.filename, problem) from error
    return lines


def _pictures(runs: Sequence[Run], folder: pathlib.Path) -> dict[pathlib.Path, list[Plot]]:
    """Returns {path: plots} of the pictures to draw."""
    from training.telemetry.report.plots import make_plots

    drawn = [plot for plot in make_plots(runs) if not plot.empty]
    pictures = {folder / f"{plot.key}.png": [plot] for plot in drawn}
    overview = [p for key in _OVERVIEW for p in drawn if p.key == key][:_OVERVIEW_PLOTS]
    if overview:
        pictures[folder / "overview.png"] = overview
    return pictures


if __name__ == "__main__":
    sys.exit(main())
