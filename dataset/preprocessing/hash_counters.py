"""How often each value of a column occurs, whatever its values are."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np

from dataset.preprocessing import native

if TYPE_CHECKING:
    import pyarrow as pa

_LOAD = 0.7
_FIRST_SLOTS = 1 << 12


class TableFullError(Exception):
    """The table has no room for what is to be counted."""


class HashCounters:
    """Counters of distinct values, missing ones left out, in a hash table that grows with them."""

    def __init__(self, kernels: ctypes.CDLL, most_bytes: int):
        """Takes what `native.load` returned, and how large the table may get."""
        self._kernels, self._most_bytes = kernels, most_bytes
        self._used = ctypes.c_int64()
        self._table = self._empty(_FIRST_SLOTS)

    def add(self, column: pa.Array) -> None:
        """Counts the values of an Arrow uint32 array; null for a missing value.

        Raises:
            TableFullError: too many distinct values, or more than 2^32 - 1 of one.
        """
        done = 0
        while done < len(column):
            counted = self._kernels.dlrm_count_hashed(
                *native.values_and_validity(column[done:]),
                native.address(self._table),
                self._table.size,
                int(_LOAD * self._table.size),
                ctypes.addressof(self._used),
            )
            if counted < 0:
                raise TableFullError("a value occurs more than 4,294,967,295 times")
            done += counted
            if done < len(column):
                self._grow()

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (uint32 values in ascending order, uint32 counts); ends the counting."""
        table = self._table
        del self._table
        entries = table[table != 0]
        del table
        entries.sort()
        # The value is in the upper half.
        return (entries >> np.uint64(32)).astype(np.uint32), entries.astype(np.uint32)

    def _grow(self):
        larger = self._empty(2 * self._table.size)
        self._kernels.dlrm_rehash(
            native.address(self._table), self._table.size, native.address(larger), larger.size
        )
        self._table = larger

    def _empty(self, slots):
        if 8 * slots > self._most_bytes:
            raise TableFullError(f"the values need more than {self._most_bytes} bytes")
        return np.zeros(slots, np.uint64)
