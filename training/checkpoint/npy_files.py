"""The .npy files of a checkpoint: written as a stream with their SHA-256, read by memory map."""

from __future__ import annotations

import io
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.digested_file import DigestedFile
from storage.regular import open_regular
from training.checkpoint.errors import DamagedError


class NpyWriter:
    """Writes an array of known shape to a new .npy file, part by part.

    Args:
        path: the file; it must not exist.
        shape: shape of the complete array.
        dtype: its NumPy dtype.

    Attributes:
        bytes: size of the file, once closed.
        digest: its SHA-256 in hexadecimal, once closed.
    """

    def __init__(self, path: str | os.PathLike, shape: Sequence[int], dtype: Any):
        self._path = os.fspath(path)
        self._shape, self._dtype = tuple(shape), np.dtype(dtype)
        self._left = math.prod(self._shape) * self._dtype.itemsize
        header = _header(self._shape, self._dtype)
        self._file = DigestedFile(path, len(header) + self._left)
        self._file.append(np.frombuffer(header, np.uint8))
        self.bytes, self.digest = 0, ""

    def append(self, values: np.ndarray) -> None:
        """Appends the next values of the array, in C order; their shape does not matter.

        Raises:
            ValueError: the array has no space left for them.
        """
        values = np.ascontiguousarray(values, self._dtype)
        if values.nbytes > self._left:
            raise ValueError(f"{self._path}: {values.nbytes - self._left} bytes too many")
        self._left -= values.nbytes
        if values.size:
            self._file.append(values.reshape(-1).view(np.uint8))

    def close(self) -> None:
        """Flushes the file to disk and closes it.

        Raises:
            ValueError: values are missing.
        """
        if self._left:
            raise ValueError(f"{self._path}: {self._left} bytes of {self._shape} are missing")
        self._file.close()
        self.bytes, self.digest = self._file.bytes, self._file.digest

    def abandon(self) -> None:
        """Closes the file without completing it."""
        self._file.abandon()


class ArrayFiles:
    """Writes arrays into an existing folder and returns their manifest entries.

    Attributes:
        digests: {name: SHA-256 in hexadecimal} of the files written so far.
        bytes: their total size.
    """

    def __init__(self, folder: str | os.PathLike):
        self._folder = pathlib.Path(folder)
        self.digests: dict[str, str] = {}
        self.bytes = 0

    def write(
        self, name: str, shape: Sequence[int], dtype: npt.DTypeLike, pieces: Iterable[np.ndarray]
    ) -> dict[str, Any]:
        """Writes one array from its consecutive values; see `write_together`.

        Returns:
            Its manifest entry: {file, shape, dtype}.
        """
        return self.write_together({name: (shape, dtype)}, ({name: p} for p in pieces))[name]

    def write_together(
        self,
        arrays: Mapping[str, tuple[Sequence[int], npt.DTypeLike]],
        pieces: Iterable[Mapping[str, np.ndarray]],
    ) -> dict[str, dict[str, Any]]:
        """Writes several arrays at once, a piece of each in turn.

        Args:
            arrays: {file name, relative to the folder: (shape, dtype)}.
            pieces: yields {name: consecutive values}.

        Returns:
            {name: manifest entry}.

        Raises:
            FileExistsError: a file exists.
            ValueError: the pieces do not add up to the arrays.
        """
        writers: dict[str, NpyWriter] = {}
        try:
            for name, (shape, dtype) in arrays.items():
                writers[name] = NpyWriter(self._folder / name, shape, dtype)
            for values in pieces:
                for name, writer in writers.items():
                    writer.append(values[name])
            for name, writer in writers.items():
                writer.close()
                self.digests[name] = writer.digest
                self.bytes += writer.bytes
        finally:
            for writer in writers.values():
                writer.abandon()
        return {
            name: {"file": name, "shape": list(shape), "dtype": str(dtype)}
            for name, (shape, dtype) in arrays.items()
        }


def load_array(folder: str | os.PathLike, entry: Mapping[str, Any]) -> np.ndarray:
    """Maps an array of a checkpoint into memory, read-only.

    Args:
        folder: the checkpoint.
        entry: the array's manifest entry: {file, shape, dtype}.

    Raises:
        DamagedError: the file is missing or holds a different array.
    """
    path = pathlib.Path(folder) / entry["file"]
    shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
    header = _header(shape, dtype)
    expected = len(header) + math.prod(shape) * dtype.itemsize
    try:
        with open_regular(path) as file:
            found = file.read(len(header))
            size = os.fstat(file.fileno()).st_size
            if found != header or size != expected:
                problem = (
                    f"expected {dtype} {list(shape)} in {expected} bytes, found {size} bytes "
                    f"starting with {found[:80]!r}"
                )
                raise DamagedError.of_path(path, problem)
            if size == len(header):  # An empty file range cannot be mapped.
                return np.empty(shape, dtype)
            return np.memmap(file, dtype, "r", offset=len(header), shape=shape)
    except OSError as error:
        raise DamagedError.of_path(path, str(error.strerror)) from error


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Returns the bytes that NumPy writes before the values of a .npy file."""
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    described = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()
