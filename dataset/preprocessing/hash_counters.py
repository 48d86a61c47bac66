"""Counts how often each value of a column occurs, in a hash table."""

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
    """The table is full and cannot grow."""


class HashCounters:
    """Counters of the distinct values that are not missing, in a hash table that grows."""

    def __init__(self, capacity_bytes: int):
        """Makes an empty table that may grow to `capacity_bytes`.

        Raises:
            TableFullError: not even the smallest table fits.
        """
        self._kernels, self._capacity_bytes = native.require(), capacity_bytes
        self._used = ctypes.c_int64()
        self._table = self._empty(_FIRST_SLOTS)

    def add(self, column: pa.Array) -> None:
        """Counts the values of an Arrow uint32 array; null for a missing value.

        Raises:
            TableFullError: too many distinct values, or one occurs more than 2^32 - 1 times.
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
        """Returns (uint32 values in ascending order, uint32 counts); call it once, at the end."""
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
        if 8 * slots > self._capacity_bytes:
            raise TableFullError(f"the values need more than {self._capacity_bytes} bytes")
        return np.zeros(slots, np.uint64)
