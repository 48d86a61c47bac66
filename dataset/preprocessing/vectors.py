"""Vectors of integers in .npy files: dictionaries and lookup tables."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from storage.regular import check_regular


def write(file: BinaryIO, values: np.ndarray) -> None:
    """Writes a contiguous vector as .npy."""
    # On a full disk, the error of np.save is a number of items without a reason.
    header = np.lib.format.header_data_from_array_1_0(values)
    np.lib.format.write_array_header_1_0(file, header)
    file.write(values.data.cast("B"))


def load(path: str) -> np.ndarray:
    """Returns the vector in a .npy file, memory-mapped.

    Raises:
        OSError: it is not a regular file, or cannot be read.
        ValueError, OverflowError: it is not a .npy file, or truncated.
    """
    check_regular(path)
    # A plain array, since operations on the memmap subclass are slower.
    with np.errstate(over="ignore"):  # An oversized shape is an error anyway.
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))
