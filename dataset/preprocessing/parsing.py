"""Turns one unit of input (a byte range, a compressed file, row groups) into parts and rejects."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dataset.preprocessing import parts, progress, sources
from dataset.preprocessing.columns import CATEGORICAL, DENSE
from dataset.preprocessing.inputs import InputFile
from dataset.preprocessing.text_ends import decode_unterminated, without_mark
from dataset.preprocessing.tsv import decode_lines
from storage.atomic import replacing


class Unit(NamedTuple):
    """The input of one task, whose results are committed together.

    Attributes:
        file: the input file.
        file_index: its index among all input files.
        begin, end: range of bytes of a plain TSV file, or of row groups of a Parquet file; (0,
            size) for a compressed file.
        part_bytes: bytes of text per part, the same in all processes.
    """

    file: InputFile
    file_index: int
    begin: int
    end: int
    part_bytes: int

    @property
    def name(self) -> str:
        """A unique name for files of this unit; names sort in input order."""
        return f"{self.file_index:05d}-{self.begin:015d}"

    @property
    def input_bytes(self) -> int:
        """Number of bytes of the input file that this unit reads, for the progress bar."""
        if self.file.form == "parquet":
            from dataset.preprocessing import parquet_input

            return parquet_input.bytes_of(self)
        return self.end - self.begin


def plan_units(files: Sequence[InputFile]) -> list[Unit]:
    """Partitions the input files into Units, in input order."""
    units = []
    for index, file in enumerate(files):
        if file.form == "parquet":
            from dataset.preprocessing import parquet_input

            ranges = parquet_input.ranges(file.path)
        elif file.compression == "none":
            step = parts.PART_BYTES
            ranges = [(begin, min(begin + step, file.size)) for begin in range(0, file.size, step)]
        else:
            ranges = [(0, file.size)]
        units += [Unit(file, index, begin, end, parts.PART_BYTES) for begin, end in ranges]
    return units


def parse_unit(unit: Unit, folder: str) -> dict[str, Any]:
    """Parses a unit; writes its parts and rejects below `folder`.

    Returns:
        dict of JSON types: `parts` (Part fields each), `lines`, `rows`, `rejects`,
        `rejects_path`, `dense` (missing, negative, least, greatest: 13 each), `missing` (26),
        `byte_order_mark` (the file begins with one), `unterminated` (it ends without a line end).

    Raises:
        InputError: the input cannot be read.
    """
    tally, ends = _Tally(), _Ends()
    rejects_path = os.path.join(folder, f"rejects-{unit.name}")
    finished = []
    with replacing(rejects_path) as rejects:
        for index, pieces in _part_pieces(unit, ends):
            writer = parts.PartWriter(folder, unit.file_index * parts.PARTS_PER_FILE + index)
            try:
                for decoded in pieces:
                    for reject in decoded.rejects:
                        line = tally.lines + reject.line
                        rejects.write(b"%d\t%s\t" % (line, reject.reason.encode()))
                        rejects.write(reject.text + b"\n")
                    tally.add(decoded)
                    writer.append(decoded.samples)
                part = writer.close()
            except BaseException as error:
                writer.abandon(error)
                raise
            if part is not None:
                finished.append(part)
    if not tally.rejects:
        os.remove(rejects_path)
    return {
        "parts": [part._asdict() for part in finished],
        "rejects_path": rejects_path if tally.rejects else None,
        **tally.result(),
        "byte_order_mark": ends.mark,
        "unterminated": ends.unterminated,
    }


class _Ends:
    """Facts about the start and end of a unit's file.

    Attributes:
        begun: decoding has started.
        mark: the text begins with a byte order mark.
        unterminated: the last line has no line end.
    """

    def __init__(self):
        self.begun = self.mark = self.unterminated = False


def _part_pieces(unit, ends):
    """Yields (index within the file, iterator of DecodedLines) of each part."""
    if unit.file.form == "parquet":
        from dataset.preprocessing import parquet_input

        yield unit.begin, parquet_input.read(unit.file.path, unit.begin, unit.end)
    elif unit.file.compression == "none":
        blocks = sources.read_range(unit.file.path, unit.begin, unit.end)
        yield unit.begin // unit.part_bytes, _decode(blocks, unit, ends, unit.begin)
    else:
        blocks = sources.read_compressed(unit.file.path, unit.file.compression)
        with contextlib.closing(blocks):
            yield from _cut_into_parts(blocks, unit, ends)


def _decode(blocks, unit, ends, bytes_before):
    for block in blocks:
        text = block.text
        if unit.begin == 0 and not ends.begun:
            text, ends.mark = without_mark(text, unit.file.path)
        ends.begun, ends.unterminated = True, block.unterminated
        decoded = decode_unterminated(text) if block.unterminated else decode_lines(text)
        progress.advance(block.bytes_read - bytes_before, decoded.lines)
        bytes_before = block.bytes_read
        yield decoded


def _cut_into_parts(blocks, unit, ends):
    """Yields `_part_pieces` of a stream, with the same lines as of byte ranges of a plain file."""
    part_bytes = unit.part_bytes
    state = {"position": 0, "next": None}  # Position in the text; a block that is left over.

    def of_part(index):
        end = (index + 1) * part_bytes
        while state["position"] < end:
            block = state["next"] or next(blocks, None)
            state["next"] = None
            if block is None:
                return
            remaining = end - state["position"]
            if len(block.text) > remaining:
                # The last line of the part begins before byte `remaining`.
                cut = block.text.index(b"\n", remaining - 1) + 1
                if cut < len(block.text):
                    state["next"] = block._replace(text=block.text[cut:])
                    block = block._replace(text=block.text[:cut], unterminated=False)
            state["position"] += len(block.text)
            yield block

    bytes_before = 0
    while True:
        if state["next"] is None:
            state["next"] = next(blocks, None)
            if state["next"] is None:
                return
        index = state["position"] // part_bytes
        bytes_now = state["next"].bytes_read
        yield index, _decode(of_part(index), unit, ends, bytes_before)
        bytes_before = bytes_now


class _Tally:
    """Counters over the lines of a unit."""

    def __init__(self):
        self.lines = 0
        self.rejects = 0
        self.rows = 0
        self.missing = np.zeros(CATEGORICAL, np.int64)
        self.dense_missing = np.zeros(DENSE, np.int64)
        self.dense_negative = np.zeros(DENSE, np.int64)
        self.least = np.full(DENSE, np.iinfo(np.int32).max, np.int64)
        self.greatest = np.full(DENSE, np.iinfo(np.int32).min, np.int64)

    def add(self, decoded):
        """Counts one DecodedLines."""
        self.lines += decoded.lines
        self.rejects += len(decoded.rejects)
        samples = decoded.samples
        rows = len(samples)
        self.rows += rows
        if not rows:
            return
        for i in range(CATEGORICAL):
            self.missing[i] += rows - np.count_nonzero(samples.present[i])
        for i in range(DENSE):
            column, present = samples.dense[i], samples.dense_present[i]
            self.dense_missing[i] += rows - np.count_nonzero(present)
            least, greatest = column.min(), column.max()
            if least < 0:
                self.dense_negative[i] += np.count_nonzero(column < 0)
            if (least == 0 and self.least[i] > 0) or (greatest == 0 and self.greatest[i] < 0):
                # This 0 may be a missing value, and would change the least or greatest value.
                found = column[present]
                least = found.min(initial=np.iinfo(np.int32).max)
                greatest = found.max(initial=np.iinfo(np.int32).min)
            self.least[i] = min(self.least[i], least)
            self.greatest[i] = max(self.greatest[i], greatest)

    def result(self):
        """Returns the counts as JSON types; least and greatest are None without values."""
        none = self.dense_missing == self.rows
        return {
            "lines": self.lines,
            "rows": self.rows,
            "rejects": self.rejects,
            "missing": self.missing.tolist(),
            "dense": {
                "missing": self.dense_missing.tolist(),
                "negative": self.dense_negative.tolist(),
                "least": [None if n else int(v) for n, v in zip(none, self.least)],
                "greatest": [None if n else int(v) for n, v in zip(none, self.greatest)],
            },
        }
