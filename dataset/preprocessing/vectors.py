"""Vectors of integers in .npy files: dictionaries and lookup tables."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from storage.regular import check_regular


def write(file: BinaryIO, values: np.ndarray) -> None:
    """Writes a contiguous vector as .npy."""
    # Not by np.save, whose error on a full disk is a number of items.
    header = np.lib.format.header_data_from_array_1_0(values)
    np.lib.format.write_array_header_1_0(file, header)
    file.write(values.data.cast("B"))


def load(path: str) -> np.ndarray:
    """Returns the vector in a .npy file, memory-mapped.

    Raises:
        OSError: it is no regular file, or cannot be read.
        ValueError, OverflowError: it is no .npy file, or cut.
    """
    check_regular(path)
    # As a plain array: every operation on the memmap subclass costs more.
    with np.errstate(over="ignore"):  # A size that no file has is an error in any case.
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))
