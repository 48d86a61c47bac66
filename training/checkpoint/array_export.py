"""Exports a checkpoint as plain arrays: one file per table, independent of the placement.

The target folder holds `table_00.npy` ... [rows, D] float32, `dense/*.npy`, `manifest.json` and
`SHA256SUMS` (which `sha256sum -c` reads).
"""

from __future__ import annotations

import os
import pathlib

from storage import atomic
from storage.atomic import encode_json
from training.checkpoint import checksums
from training.checkpoint.manifest import NAME, expected_transform
from training.checkpoint.npy_files import ArrayFiles
from training.checkpoint.reader import Reader
from training.runtime.errors import UserError

FORMAT, VERSION = "dlrm-arrays", 1


def export(reader: Reader, target: str | os.PathLike) -> int:
    """Writes a checkpoint's weights into a new folder; returns the bytes of its arrays.

    Args:
        reader: the checkpoint.
        target: the new folder. It is written under a temporary name and renamed when complete.

    Raises:
        UserError: the folder exists or cannot be written.
        DamagedError: the checkpoint lacks rows.
    """
    target = pathlib.Path(target)
    if os.path.lexists(target):
        raise UserError.of_path(target, "already exists; give a new folder")
    try:
        with atomic.new_folder(target) as partial:
            size = _write(reader, pathlib.Path(partial))
            atomic.sync_folder(os.path.join(partial, "dense"))
            atomic.sync_folder(partial)
        return size
    except OSError as error:
        raise UserError.of_path(target, f"cannot be written: {error.strerror}") from error


def _write(reader: Reader, folder: pathlib.Path) -> int:
    manifest, arrays = reader.manifest, ArrayFiles(folder)
    (folder / "dense").mkdir()
    tables = [
        arrays.write(
            f"table_{table:02d}.npy", (rows, manifest["embedding_dim"]), "float32",
            reader.table(table),
        )
        for table, rows in enumerate(manifest["vocab_sizes"])
    ]  # fmt: skip
    dense = {}
    for name in manifest["dense"]:
        values = reader.named("dense", name)
        dense[name] = arrays.write(f"dense/{name}.npy", values.shape, values.dtype, [values])
    kept = ("step", "epoch", "vocab_sizes", "embedding_dim", "flags", "data", "evaluations")
    described = {
        "format": FORMAT,
        "version": VERSION,
        "checkpoint": str(reader.folder.resolve()),
        **{name: manifest[name] for name in kept},
        "dense_transform": expected_transform(manifest),
        "tables": tables,
        "dense": dense,
    }
    text = encode_json(described) + "\n"
    digests = {**arrays.digests, NAME: checksums.write_text(folder / NAME, text)}
    checksums.write_checksums(folder, digests)
    return arrays.bytes
