"""Lookup tables from values to ids: an open-addressing hash table in one array.

A slot is a uint64: value in the high half, id + 1 in the low half, 0 for an empty slot. Collisions
go to the next free slot. The table is built in one pass by sorting instead of inserting: with
entries ordered by home slot h, entry i lands in slot max(h_i, slot_{i-1} + 1), a running maximum.
It is a .npy file, which all worker processes map, so that they share its pages. `native.find_ids`
searches it.
"""

from __future__ import annotations

import numpy as np

from dataset.preprocessing import vectors
from storage.paths import naming_errors

#: Knuth's multiplicative hash, 2^32 / golden ratio, odd: a permutation of 32-bit values.
_MULTIPLIER = np.uint32(2654435761)
_HALF = np.uint64(32)
_LOAD = 0.6


def table_bytes(entries: int) -> int:
    """Returns the approximate size in bytes of the table of `entries` values."""
    return 8 * (int(entries / _LOAD) + 64)


def _home_slots(values, slots):
    home = (values * _MULTIPLIER).astype(np.uint64)
    home *= np.uint64(slots)
    home >>= _HALF
    return home.view(np.int64)


def build(values: np.ndarray, first_id: int) -> np.ndarray:
    """Returns the table (uint64 vector) that maps values[i] to the id `first_id` + i.

    Args:
        values: uint32, distinct.
        first_id: id of the first value.
    """
    entries = len(values)
    slots = int(entries / _LOAD) + 1
    # Home slot and index in one word: sorting words is several times faster than argsort.
    rank = np.arange(entries, dtype=np.int64)
    order = _home_slots(np.asarray(values), slots)
    order <<= 32
    order |= rank
    order.sort()
    place = order >> 32
    order &= 0xFFFFFFFF
    place -= rank
    np.maximum.accumulate(place, out=place)
    place += rank
    # The empty slot at the end stops every search.
    table = np.zeros(max(slots, int(place[-1]) + 1 if entries else 0) + 1, np.uint64)
    entry = np.asarray(values)[order].astype(np.uint64) << _HALF
    entry |= (order + (first_id + 1)).astype(np.uint64)
    table[place] = entry
    return table


def write(path: str, values: np.ndarray, first_id: int) -> None:
    """Builds a table and writes it to `path`, without fsync: the file is temporary."""
    with naming_errors(path), open(path, "wb") as file:
        vectors.write(file, build(values, first_id))


class Lookup:
    """A table, ready for `native.find_ids`.

    Attributes:
        table: uint64 vector from `build`.
        slots: home slots of the hash function.
    """

    def __init__(self, table: np.ndarray, entries: int):
        """Takes the result of `build` for `entries` values."""
        self.table = table
        self.slots = int(entries / _LOAD) + 1

    @classmethod
    def open(cls, path: str, entries: int) -> Lookup:
        """Memory-maps the table in a file of `write`."""
        return cls(vectors.load(path), entries)
