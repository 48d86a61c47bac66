"""What is wrong with a checkpoint: every file is read."""

import pathlib

import numpy as np

from training.checkpoint import files, manifest


def find(folder):
    """Reads every byte of a checkpoint and returns a line for each thing that is wrong.

    Args:
        folder: the checkpoint.

    Returns:
        A list of texts, each naming a file; empty for a whole checkpoint.
    """
    folder = pathlib.Path(folder)
    try:
        digests = files.read_checksums(folder)
    except files.DamagedError as error:
        # Without these nothing else can be judged.
        return [str(error)]
    found = [str(error) for error in files.verify_all(folder, digests)]
    if any(line.startswith(f"{folder / manifest.NAME}:") for line in found):
        return found
    try:
        read, _ = manifest.read(folder)
    except files.DamagedError as error:
        return [*found, str(error)]
    if not found:
        # Bytes as they were written; were they the right ones?
        found += _inconsistencies(folder, read)
    return found


def _inconsistencies(folder, read):
    """Yields what the arrays do not hold though the manifest says so."""
    for entry in manifest.entries(read):
        try:
            files.load_array(folder, entry)
        except files.DamagedError as error:
            yield str(error)
    for state in {entry["state"] for entry in read["tables"]}:
        for table, rows in enumerate(read["vocab_sizes"]):
            parts = [e for e in read["tables"] if (e["table"], e["state"]) == (table, state)]
            values = sum(int(np.prod(entry["shape"], dtype=np.int64)) for entry in parts)
            vector = any(len(entry["shape"]) == 1 for entry in parts)
            expected = rows * (1 if vector else read["embedding_dim"])
            if values != expected:
                where = f"{folder / manifest.NAME}: the parts of table {table} ({state})"
                yield f"{where} hold {values} values, expected {expected}"
