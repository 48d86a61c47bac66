"""The reject file: every malformed line with its file, line number and reason; and the limit."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from dataset.preprocessing.errors import RejectedLinesError

if TYPE_CHECKING:
    from dataset.preprocessing.output_folder import OutputFolder
    from dataset.preprocessing.parsing import Unit
    from dataset.preprocessing.stage_results import ParsedUnit

FILE_NAME = "rejects.tsv"


def write(output: OutputFolder, units: Sequence[Unit], parsed: Sequence[ParsedUnit]) -> bool:
    """Writes `rejects.tsv` from the units' own reject files; removes it if none.

    A line of it is: file, line number from 1 (row of a Parquet file), reason, the line as it was
    found, separated by tabs.

    Args:
        output: OutputFolder.
        units: Units, in input order.
        parsed: their results.

    Returns:
        Whether there are any.
    """
    if not any(result["rejects"] for result in parsed):
        output.remove(FILE_NAME)
        return False
    with output.replacing(FILE_NAME) as file:
        before = {}  # Lines of the same file in the units before.
        for unit, result in zip(units, parsed):
            source = unit.file.path
            first = before.setdefault(source, 0)
            before[source] += result["lines"]
            path = result["rejects_path"]
            if path is None:
                continue
            with open(path, "rb") as rejects:
                for line in rejects:
                    number, rest = line.split(b"\t", 1)
                    file.write(b"%s\t%d\t%s" % (source.encode(), first + int(number) + 1, rest))
    return True


def check(path: str, parsed: Sequence[ParsedUnit], max_rejects: Fraction) -> None:
    """Raises `RejectedLinesError` if more than the share `max_rejects` of lines is malformed."""
    lines = sum(result["lines"] for result in parsed)
    count = sum(result["rejects"] for result in parsed)
    if count > max_rejects * lines:
        with open(path, "rb") as file:
            source, number, reason = next(file).decode(errors="replace").split("\t")[:3]
        raise RejectedLinesError(
            f"{count} of {lines} lines are malformed ({count / lines:.4%}), more than "
            f"--max_rejects {float(max_rejects):.4%}. The first is {source}:{number}: {reason}. "
            f"All are in {path}"
        )


class EarlyCheck:
    """Stops a run on the wrong file after its first unit, not after its last."""

    def __init__(self, units: Sequence[Unit], sizes: Sequence[int], max_rejects: Fraction):
        """Takes all Units and the bytes of each."""
        self._units, self._sizes = units, sizes
        self._max_rejects = max_rejects
        self._results = {}
        self._bytes = self._lines = self._rejects = 0

    def add(self, index: int, result: ParsedUnit) -> None:
        """Counts a finished unit; raises if even twice the limit is certain to be passed."""
        self._results[index] = result
        self._bytes += self._sizes[index]
        self._lines += result["lines"]
        self._rejects += result["rejects"]
        expected = self._lines * sum(self._sizes) / max(1, self._bytes)
        if self._rejects > 2 * self._max_rejects * expected + 1000:
            raise RejectedLinesError(
                f"{self._rejects} of the first {self._lines} lines are malformed, many more than "
                f"--max_rejects {float(self._max_rejects):.4%}: is this Criteo data? "
                f"{self._first()}"
            )

    def _first(self):
        """Returns file, line and reason of the first malformed line that was found."""
        index = min(i for i, result in self._results.items() if result["rejects"])
        unit = self._units[index]
        with open(self._results[index]["rejects_path"], "rb") as file:
            number, reason = next(file).decode(errors="replace").split("\t")[:2]
        before = [i for i in range(index) if self._units[i].file_index == unit.file_index]
        if all(i in self._results for i in before):
            line = int(number) + 1 + sum(self._results[i]["lines"] for i in before)
            return f"{unit.file.path}:{line}: {reason}"
        # Other processes are still at the lines before.
        what = "row group" if unit.file.form == "parquet" else "byte"
        return f"{unit.file.path}: line {int(number) + 1} after {what} {unit.begin}: {reason}"
