"""Finds the ids of many values at once: an open-addressing hash table in one array.

A slot is a uint64: value in the high half, id + 1 in the low half, 0 for an empty slot. Collisions
go to the next free slot. The table is built in one pass by sorting instead of inserting: with
entries ordered by home slot h, entry i lands in slot max(h_i, slot_{i-1} + 1), a running maximum.
It is a plain .npy file, so worker processes map one copy and share its pages.
"""

from __future__ import annotations

import numpy as np

from dataset.preprocessing import vectors
from storage.paths import naming_errors

#: Knuth's multiplicative hash, 2^32 / golden ratio, odd: a permutation of 32-bit values.
_MULTIPLIER = np.uint32(2654435761)
_HALF = np.uint64(32)
_LOAD = 0.6
_PIECE = 1 << 15


def table_bytes(entries: int) -> int:
    """Returns about how many bytes the table of `entries` values takes."""
    return 8 * (int(entries / _LOAD) + 64)


def _home_slots(values, slots):
    home = (values * _MULTIPLIER).astype(np.uint64)
    home *= np.uint64(slots)
    home >>= _HALF
    return home.view(np.int64)


def build(values: np.ndarray, first_id: int) -> np.ndarray:
    """Returns the table (uint64 vector) that gives values[i] the id `first_id` + i.

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
    # One empty slot at the end stops the search that would run past it.
    table = np.zeros(max(slots, int(place[-1]) + 1 if entries else 0) + 1, np.uint64)
    entry = np.asarray(values)[order].astype(np.uint64) << _HALF
    entry |= (order + (first_id + 1)).astype(np.uint64)
    table[place] = entry
    return table


def write(path: str, values: np.ndarray, first_id: int) -> None:
    """Builds a table and writes it to `path`; it is scratch, so nothing waits for the disk."""
    with naming_errors(path), open(path, "wb") as file:
        vectors.write(file, build(values, first_id))


class Lookup:
    """A table, ready to be searched.

    Attributes:
        table: uint64 vector, as `build` returns it.
        slots: home slots of the hash function.
    """

    def __init__(self, table: np.ndarray, entries: int):
        """Takes what `build` returned for `entries` values."""
        self.table = table
        self.slots = int(entries / _LOAD) + 1

    @classmethod
    def open(cls, path: str, entries: int) -> Lookup:
        """Maps the table that `write` wrote."""
        return cls(vectors.load(path), entries)

    def find(self, values: np.ndarray) -> np.ndarray:
        """Returns int32 [n]: the id of each value of uint32 [n], -1 where it has none."""
        ids = np.empty(values.size, np.int32)
        for begin in range(0, values.size, _PIECE):  # Pieces whose temporaries fit the cache.
            piece = values[begin : begin + _PIECE]
            ids[begin : begin + _PIECE] = self._find(piece)
        return ids

    def _find(self, values):
        slot = _home_slots(values, self.slots)
        ids, found = _halves(self.table.take(slot))
        unresolved = np.flatnonzero((found != values) & (ids >= 0))
        slot = slot[unresolved]
        while unresolved.size:
            slot += 1
            further, found = _halves(self.table.take(slot))
            ids[unresolved] = further
            again = (found != values[unresolved]) & (further >= 0)
            unresolved, slot = unresolved[again], slot[again]
        return ids


def _halves(entries):
    """Returns (id, value) of entries; the id of an empty one is -1."""
    pairs = entries.view("<u4").reshape(-1, 2)
    ids = pairs[:, 0].view(np.int32) - np.int32(1)
    return ids, pairs[:, 1]
