"""Arrays written into one folder as .npy files, with what a manifest says of them."""

import pathlib

from training.checkpoint.files import NpyWriter


class ArrayFiles:
    """Writes arrays into a folder.

    Args:
        folder: where to; it exists.

    Attributes:
        digests: {name: SHA-256 in hexadecimal} of the files written.
        bytes: their size together.
    """

    def __init__(self, folder):
        self._folder = pathlib.Path(folder)
        self.digests, self.bytes = {}, 0

    def write(self, name, shape, dtype, pieces):
        """Writes one array.

        Args:
            name: the file's, with folders below this one.
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

    def write_together(self, arrays, pieces):
        """Writes several arrays side by side.

        Args:
            arrays: {name: (shape, dtype)}.
            pieces: iterable of {name: consecutive values}.

        Returns:
            {name: its entry in a manifest}.

        Raises:
            FileExistsError, ValueError: as `write`.
        """
        writers = {}
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
