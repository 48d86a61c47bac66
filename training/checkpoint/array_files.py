"""Writes arrays into one folder as .npy files and returns their manifest entries."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from training.checkpoint.files import NpyWriter


class ArrayFiles:
    """Writes arrays into a folder.

    Args:
        folder: an existing folder.

    Attributes:
        digests: {name: SHA-256 in hexadecimal} of the files written.
        bytes: their size together.
    """

    def __init__(self, folder: str | os.PathLike):
        self._folder = pathlib.Path(folder)
        self.digests: dict[str, str] = {}
        self.bytes = 0

    def write(
        self, name: str, shape: Sequence[int], dtype: npt.DTypeLike, pieces: Iterable[np.ndarray]
    ) -> dict[str, Any]:
        """Writes one array.

        Args:
            name: of the file, relative to the folder.
            shape: shape of the whole array.
            dtype: its NumPy dtype.
            pieces: iterable of its consecutive values.

        Returns:
            Its entry in a manifest: {file, shape, dtype}.

        Raises:
            FileExistsError: there is such a file.
            ValueError: the pieces are not the whole array.
        """
        return self.write_together({name: (shape, dtype)}, ({name: p} for p in pieces))[name]

    def write_together(
        self,
        arrays: Mapping[str, tuple[Sequence[int], npt.DTypeLike]],
        pieces: Iterable[Mapping[str, np.ndarray]],
    ) -> dict[str, dict[str, Any]]:
        """Writes several arrays in alternation.

        Args:
            arrays: {name: (shape, dtype)}.
            pieces: iterable of {name: consecutive values}.

        Returns:
            {name: its entry in a manifest}.

        Raises:
            FileExistsError, ValueError: as `write`.
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
