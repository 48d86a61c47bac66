"""The reject file: every malformed line with its file, line number and reason; and the limit."""

from __future__ import annotations

import os

from dataset.preprocessing import durable
from dataset.preprocessing.errors import RejectedLinesError

FILE_NAME = "rejects.tsv"


def write(folder, units, parsed):
    """Writes `rejects.tsv` to `folder` from the units' own reject files; removes it if none.

    A line of it is: file, line number from 1 (row of a Parquet file), reason, the line as it was
    found, separated by tabs.

    Args:
        folder: output folder.
        units: Units, in input order.
        parsed: their results.

    Returns:
        The path, or None without rejects.
    """
    path = os.path.join(folder, FILE_NAME)
    if not any(result["rejects"] for result in parsed):
        if os.path.exists(path):
            os.remove(path)
        return None
    with durable.replacing(path) as partial, open(partial, "wb") as file:
        before = {}  # Lines of the same file in the units before.
        for unit, result in zip(units, parsed):
            source = unit.file.path
            first = before.setdefault(source, 0)
            before[source] += result["lines"]
            if not result["rejects"]:
                continue
            with open(result["rejects_path"], "rb") as rejects:
                for line in rejects:
                    number, rest = line.split(b"\t", 1)
                    file.write(b"%s\t%d\t%s" % (source.encode(), first + int(number) + 1, rest))
    return path


def check(path, parsed, max_rejects):
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

    def __init__(self, total_bytes, max_rejects):
        """Takes the bytes of all units."""
        self._total_bytes = total_bytes
        self._max_rejects = max_rejects
        self._bytes = self._lines = self._rejects = 0

    def add(self, unit_bytes, result):
        """Counts a finished unit; raises if even twice the limit is certain to be passed."""
        self._bytes += unit_bytes
        self._lines += result["lines"]
        self._rejects += result["rejects"]
        expected = self._lines * self._total_bytes / max(1, self._bytes)
        if self._rejects > 2 * self._max_rejects * expected + 1000:
            with open(result["rejects_path"] or os.devnull, "rb") as file:
                reason = file.readline().decode(errors="replace").split("\t")[1:2]
            raise RejectedLinesError(
                f"{self._rejects} of the first {self._lines} lines are malformed, many more than "
                f"--max_rejects {float(self._max_rejects):.4%}: is this Criteo data? "
                f"{''.join(reason)}"
            )
