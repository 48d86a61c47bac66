"""Partitions samples into train, test and validation, and assigns their records."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from dataset.preprocessing.errors import InputError
from dataset.preprocessing.raw_records import RECORD_BYTES

if TYPE_CHECKING:
    from dataset.preprocessing.parts import Part

TRAIN, TEST, VALIDATION = "train_data.bin", "test_data.bin", "validation_data.bin"


def folder_name(file: str) -> str:
    """Returns the name of the per-table layout's folder for a file of records."""
    return file.partition("_")[0]


class Destination(NamedTuple):
    """Rows [begin, end) of a part are written to `file`, starting at its record `record`."""

    file: str
    record: int
    begin: int
    end: int

    @property
    def offset(self) -> int:
        """Offset in the file, in bytes."""
        return self.record * RECORD_BYTES

    @property
    def length(self) -> int:
        """Length in bytes."""
        return (self.end - self.begin) * RECORD_BYTES


class Plan(NamedTuple):
    """Destinations of all samples.

    Attributes:
        records: file name -> number of records.
        destinations: part number -> destinations in row order.
    """

    records: dict[str, int]
    destinations: dict[int, list[Destination]]


def by_day(
    train_parts: Sequence[Part], test_parts: Sequence[Part] | None, write_validation: bool
) -> Plan:
    """Plans the published split: the first half of the test day (rounded up) is the test set.

    Args:
        train_parts: parts of the training days, in order.
        test_parts: parts of the test day, in order; None for no test set.
        write_validation: write the test day's other half as validation set.

    Raises:
        InputError: one of the files would be empty.
    """
    train = sum(part.rows for part in train_parts)
    ranges = [(TRAIN, 0, train)]
    day = sum(part.rows for part in test_parts or ())
    if test_parts is not None:
        ranges.append((TEST, train, train + (day + 1) // 2))
    if write_validation:
        ranges.append((VALIDATION, train + (day + 1) // 2, train + day))
    return _place([*train_parts, *(test_parts or ())], ranges)


def by_fraction(all_parts: Sequence[Part], fraction: Fraction) -> Plan:
    """Plans a split by row order: the last `fraction` of all rows (rounded up) is the test set.

    Raises:
        InputError: one of the files would be empty.
    """
    rows = sum(part.rows for part in all_parts)
    train = rows - -((-rows * fraction.numerator) // fraction.denominator)
    return _place(all_parts, [(TRAIN, 0, train), (TEST, train, rows)])


def _place(all_parts, ranges):
    for file, begin, end in ranges:
        if begin == end:
            problem = "expected samples, found none for this split of the input"
            raise InputError.of_path(file, problem, found=0)
    destinations, first = {}, 0
    for part in all_parts:
        found = []
        for file, begin, end in ranges:
            low, high = max(begin, first), min(end, first + part.rows)
            if low < high:
                found.append(Destination(file, low - begin, low - first, high - first))
        destinations[part.number] = found
        first += part.rows
    return Plan({file: end - begin for file, begin, end in ranges}, destinations)
