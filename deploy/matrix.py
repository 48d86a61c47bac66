"""Tests supported TensorFlows and Pythons: `python3 -m deploy.matrix [TENSORFLOW:PYTHON ...]`.

For each cell, creates an environment from its lock, builds Horovod and the op library, and runs
two tiers of tests: single-process and multi-rank. A cell whose Python is not installed is reported
as not run. All cells take hours; the default cells take an hour on two cores.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from deploy.requirements import ROOT, default_tensorflow, supported

FOLDER = ROOT / "build" / "matrix"
#: {tier: pytest arguments}: the tests that depend most on versions, then those of several ranks.
TIERS = {
    "unit": ["-m", "not slow", "tests/unit", "tests/e2e/training/modes/test_export.py"],
    "ranks": ["-m", "not slow", "tests/ranks"],
}


class Outcome(NamedTuple):
    """The result of one cell: a row of the table."""

    tensorflow: str
    python: str
    passed: bool
    summary: str
    seconds: float


def default_cells() -> list[tuple[str, str]]:
    """Returns the cells that `make matrix` tests: [(TensorFlow, Python)].

    These are the oldest TensorFlow with its oldest Python, the last with Keras 2 with its newest,
    and the default with its oldest and its newest.
    """
    table = supported()
    oldest, default = next(iter(table)), default_tensorflow()
    keras_2 = [v for v in table if tuple(map(int, v.split(".")[:2])) < (2, 16)][-1]
    return [
        (oldest, table[oldest][0]), (keras_2, table[keras_2][-1]),
        (default, table[default][0]), (default, table[default][-1]),
    ]  # fmt: skip


def find_python(version: str) -> str | None:
    """Returns the path of a Python, such as "3.9", on PATH or from pyenv, or None."""
    name = f"python{version}"
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"))
    candidates = [shutil.which(name), *sorted(pyenv.glob(f"versions/{version}.*/bin/{name}"))]
    for candidate in filter(None, candidates):
        # pyenv's shims on PATH fail for versions that are not selected.
        done = subprocess.run([str(candidate), "-c", ""], capture_output=True, check=False)
        if done.returncode == 0:
            return str(candidate)
    return None


def test(tensorflow: str, python: str, keep: bool = False) -> Outcome:
    """Builds one cell's environment, runs the test tiers in it, and removes it unless `keep`."""
    interpreter, begin = find_python(python), time.monotonic()

    def outcome(passed, summary):
        return Outcome(tensorflow, python, passed, summary, time.monotonic() - begin)

    if interpreter is None:
        return outcome(False, f"not run: python{python} was not found")
    name = f"tf{tensorflow}-py{python}"
    venv, log = FOLDER / name, FOLDER / f"{name}.log"
    FOLDER.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    variables = {"TENSORFLOW": tensorflow, "PYTHON": interpreter, "VENV": str(venv)}
    make = ["make", "ops", *(f"{key}={value}" for key, value in variables.items())]
    environment = {**os.environ, "DEVICE": "cpu"}
    if _run(make, log, environment) != 0:
        return outcome(False, f"not built: {log}")
    environment["PATH"] = f"{venv / 'bin'}:{os.environ['PATH']}"
    counts, passed = [], True
    for tier, tests in TIERS.items():
        pytest = [venv / "bin" / "python", "-m", "pytest", "-q", "-n", "2"]
        passed &= _run([*pytest, *tests], log, environment) == 0
        counts.append(f"{tier}: {_counts(log.read_text())}")
    if passed and not keep:
        shutil.rmtree(venv)
    return outcome(passed, "; ".join(counts) + ("" if passed else f" ({log})"))


def _run(command, log, environment):
    with open(log, "a") as file:
        return subprocess.run(
            list(map(str, command)), stdout=file, stderr=subprocess.STDOUT, cwd=ROOT,
            env=environment, stdin=subprocess.DEVNULL, check=False,
        ).returncode  # fmt: skip


def _counts(log):
    """Returns the counts of pytest's last line, such as "123 passed, 4 skipped"."""
    found = re.findall(r"^=* ?((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s", log, re.MULTILINE)
    return found[-1] if found else "no result"


def table(outcomes: Sequence[Outcome]) -> str:
    """Returns the outcomes as a Markdown table."""
    lines = ["| TensorFlow | Python | outcome | minutes |", "|---|---|---|---|"]
    for o in outcomes:
        result = "passed" if o.passed else "**failed**"
        result = o.summary if o.summary.startswith("not ") else f"{result}: {o.summary}"
        lines.append(f"| {o.tensorflow} | {o.python} | {result} | {o.seconds / 60:.0f} |")
    return "\n".join(lines) + "\n"


def _cell(text):
    tensorflow, _, python = text.partition(":")
    if python not in supported().get(tensorflow, ()):
        raise argparse.ArgumentTypeError(
            f"expected TENSORFLOW:PYTHON from locks/matrix.txt, such as 2.21.0:3.13, found {text}"
        )
    return tensorflow, python


def main(arguments: Sequence[str] | None = None) -> int:
    """Tests cells and prints a table; returns 0 if all passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cells", nargs="*", type=_cell, metavar="TENSORFLOW:PYTHON",
        help="cells to test [the oldest and newest versions]")  # fmt: skip
    parser.add_argument("--all", action="store_true", help="test every cell of the table")
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    options = parser.parse_args(arguments)
    cells = options.cells or default_cells()
    if options.all:
        cells = [(version, python) for version, row in supported().items() for python in row]
    outcomes = []
    for tensorflow, python in cells:
        print(f"TensorFlow {tensorflow}, Python {python}: ", end="", flush=True)
        outcomes.append(test(tensorflow, python, options.keep))
        print(f"{outcomes[-1].summary} ({outcomes[-1].seconds / 60:.0f} min)", flush=True)
        (FOLDER / "table.md").write_text(table(outcomes))
    print(f"\n{table(outcomes)}", end="")
    return int(not all(o.passed for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
