"""`--mode=export`: a checkpoint becomes a SavedModel that needs nothing but TensorFlow.

Reads the checkpoint's files directly: no placement, no ranks, no data.
"""

import os
import pathlib
import time

import tensorflow as tf

from model.serving import ServingDLRM
from ops.embedding import create_table, write_rows
from storage import atomic
from training import start
from training.checkpoint import manifest as manifests
from training.checkpoint.files import DamagedError, write_text
from training.errors import EXIT_OK, UserError
from training.plan_arguments import read_widths

DESCRIPTION = "model.json"


def run(flags, cluster):
    """Runs the mode; returns the exit code.

    Raises:
        UserError: there is no whole checkpoint, or the folder cannot be made.
    """
    if cluster.size != 1:
        raise UserError(
            f"--mode=export is work for one process, {cluster.size} were started: leave "
            "horovodrun away"
        )
    target = pathlib.Path(flags.export_dir)
    _check_target(target)
    begin = time.perf_counter()
    reader = start.find_checkpoint(flags, cluster)
    size = export(reader, target)
    rows = sum(reader.manifest["vocab_sizes"])
    print(
        f"{target}: step {reader.manifest['step']} of {reader.folder}, "
        f"{len(reader.manifest['vocab_sizes'])} tables with {rows:,} rows, {size:,} bytes in "
        f"{time.perf_counter() - begin:.2f} s",
        flush=True,
    )
    return EXIT_OK


def export(reader, target):
    """Writes a SavedModel and `model.json`; returns their bytes.

    The memory it takes is that of the tables and one piece of a table.

    Args:
        reader: a `training.checkpoint.reader.Reader`.
        target: the folder to make. It is written under another name and renamed when whole.

    Raises:
        UserError: the folder exists or cannot be written.
        DamagedError: the checkpoint does not hold what its flags say.
    """
    target = pathlib.Path(target)
    _check_target(target)
    try:
        with atomic.new_folder(target) as partial:
            module = serving_model(reader)
            tf.saved_model.save(module, partial, signatures={"serving_default": module.serve})
            text = atomic.encode_json(description(reader)) + "\n"
            write_text(os.path.join(partial, DESCRIPTION), text)
            size = _sync(partial)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"--export_dir={target}: cannot be written: {reason}") from error
    return size


def serving_model(reader):
    """Returns the `model.serving.ServingDLRM` of a checkpoint."""
    manifest = reader.manifest
    # Large tables are for the host's memory, whatever devices there are.
    with tf.device("CPU:0"):
        bottom, top = _layers(reader)
        tables = [_table(reader, table) for table in range(len(manifest["vocab_sizes"]))]
        interact = manifest["flags"].get("ablation") != "no_interaction"
        return ServingDLRM(bottom, top, tables, interact=interact)


def description(reader):
    """Returns the content of `model.json`."""
    manifest = reader.manifest
    bottom, _ = _layers(reader)
    features, tables = len(bottom[0][0]), len(manifest["vocab_sizes"])
    return {
        "format": "dlrm-saved-model",
        "version": 1,
        "step": manifest["step"],
        "checkpoint": str(reader.folder.resolve()),
        "vocab_sizes": manifest["vocab_sizes"],
        "embedding_dim": manifest["embedding_dim"],
        "dense_features": features,
        # What the caller must have applied to raw counts; null: the checkpoint does not say.
        "dense_transform": manifest["data"].get("dense_transform"),
        "signature": {
            "name": "serving_default",
            "inputs": {
                "dense": {"dtype": "float32", "shape": [None, features]},
                "categorical": {"dtype": "int64", "shape": [None, tables]},
            },
            "outputs": {"probability": {"dtype": "float32", "shape": [None, 1]}},
        },
    }


def _layers(reader):
    """Returns ([(kernel, bias), ...] of the bottom MLP, those of the top MLP)."""
    manifest = reader.manifest
    names = sorted(manifest["dense"], key=lambda name: int(name.split(".")[0]))
    arrays = [reader.named("dense", name) for name in names]
    found = [list(array.shape) for array in arrays]
    layers, expected = [], []
    for flag in ("bottom_mlp", "top_mlp"):
        text = manifests.flag(manifest, flag, reader.folder)
        try:
            widths = read_widths(flag, text)
        except ValueError as error:
            raise DamagedError(f"{reader.folder}: its flags are damaged: {error}") from error
        begin, count = sum(map(len, layers)), len(widths)
        pairs = arrays[2 * begin : 2 * (begin + count)]
        layers.append(list(zip(pairs[::2], pairs[1::2])))
        inputs = [pairs[0].shape[0] if pairs else 0, *widths]
        for width, before in zip(widths, inputs):
            expected += [[before, width], [width]]
    if found != expected:
        raise DamagedError(
            f"{reader.folder}: its dense variables have shapes {found}, its flags ask for "
            f"{expected}"
        )
    return layers


def _table(reader, table):
    """Returns a table as one variable, filled piece by piece."""
    rows, dimension = reader.manifest["vocab_sizes"][table], reader.manifest["embedding_dim"]
    variable = create_table(rows, dimension, name=f"table_{table:02d}")
    begin = 0
    for piece in reader.table(table):
        write_rows(variable, begin, piece)
        begin += len(piece)
    return variable


def _check_target(target):
    if target.exists() or target.is_symlink():
        raise UserError(f"--export_dir={target}: exists already; name a new folder")


def _sync(folder):
    """Brings a folder to disk; returns its bytes."""
    size = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(path, name), "rb") as file:
                os.fsync(file.fileno())
                size += os.fstat(file.fileno()).st_size
        atomic.sync_folder(path)
    return size
