"""The reject file, which lists every malformed line, and the limit on their number."""

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
    """Writes `rejects.tsv` from the units' reject files; removes it if there are none.

    Each line has four fields separated by tabs: file, line number from 1 (row of a Parquet file),
    reason, and the malformed line.

    Args:
        output: folder for the file.
        units: in input order.
        parsed: results of the units.

    Returns:
        Whether there are malformed lines.
    """
    if not any(result["rejects"] for result in parsed):
        output.remove(FILE_NAME)
        return False
    with output.replacing(FILE_NAME) as file:
        before = {}  # File -> number of its lines in earlier units.
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
            f"--max_rejects {float(max_rejects):.4%}; the first is {source}:{number}: {reason}; "
            f"all are in {path}",
            flag="max_rejects", path=source, line=int(number), found=count, bound=max_rejects,
        )  # fmt: skip


class EarlyCheck:
    """Stops a run on a wrong file after its first unit, instead of after its last."""

    def __init__(self, units: Sequence[Unit], sizes: Sequence[int], max_rejects: Fraction):
        """Takes all units and the bytes of each."""
        self._units, self._sizes = units, sizes
        self._max_rejects = max_rejects
        self._results = {}
        self._bytes = self._lines = self._rejects = 0

    def add(self, index: int, result: ParsedUnit) -> None:
        """Counts a finished unit.

        Raises:
            RejectedLinesError: the run will certainly exceed twice the limit.
        """
        self._results[index] = result
        self._bytes += self._sizes[index]
        self._lines += result["lines"]
        self._rejects += result["rejects"]
        expected = self._lines * sum(self._sizes) / max(1, self._bytes)
        if self._rejects > 2 * self._max_rejects * expected + 1000:
            path, line, first = self._first()
            raise RejectedLinesError(
                f"{self._rejects} of the first {self._lines} lines are malformed, many more than "
                f"--max_rejects {float(self._max_rejects):.4%}: is this Criteo data? {first}",
                flag="max_rejects", path=path, line=line, found=self._rejects,
                bound=self._max_rejects,
            )  # fmt: skip

    def _first(self):
        """Returns file, line (or None), and a text with the reason, of the first malformed line."""
        index = min(i for i, result in self._results.items() if result["rejects"])
        unit = self._units[index]
        with open(self._results[index]["rejects_path"], "rb") as file:
            number, reason = next(file).decode(errors="replace").split("\t")[:2]
        before = [i for i in range(index) if self._units[i].file_index == unit.file_index]
        if all(i in self._results for i in before):
            line = int(number) + 1 + sum(self._results[i]["lines"] for i in before)
            return unit.file.path, line, f"{unit.file.path}:{line}: {reason}"
        # Other processes have not finished the lines before.
        what = "row group" if unit.file.form == "parquet" else "byte"
        text = f"{unit.file.path}: line {int(number) + 1} after {what} {unit.begin}: {reason}"
        return unit.file.path, None, text
