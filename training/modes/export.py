"""`--mode=export`: converts a checkpoint to a SavedModel that runs with TensorFlow alone.

Reads the files of the checkpoint directly, without placement, ranks or data.
"""

from __future__ import annotations

import os
import pathlib
import time
from typing import Any

import numpy as np
import tensorflow as tf

from dataset.columns import TRANSFORMS
from model.dlrm import DenseDLRM, DLRMConfig
from model.serving import ServingDLRM
from ops.bags import EMPTY
from ops.embedding import create_table, write_rows
from planner.arguments import read_widths
from storage import atomic
from training.checkpoint import compatibility
from training.checkpoint import manifest as manifests
from training.checkpoint.errors import DamagedError
from training.checkpoint.reader import Reader
from training.checkpoint.restore import find_checkpoint
from training.config import Config
from training.runtime.console import warn
from training.runtime.errors import EXIT_OK, UserError
from training.runtime.monitor import Monitor
from training.runtime.process_group import ProcessGroup

DESCRIPTION = "model.json"
# Name of the signature that takes counts and applies the dense transform.
FROM_COUNTS = "from_counts"


def run(config: Config, cluster: ProcessGroup, watch: Monitor | None = None) -> int:
    """Runs the mode in one process, without a watchdog; returns the exit code.

    Raises:
        UserError: there is no complete checkpoint, or the folder cannot be created.
    """
    if cluster.size != 1:
        problem = f"expected one process, found {cluster.size}; run it without horovodrun"
        raise UserError.of_flag("mode", "export", problem, bound=1)
    target = pathlib.Path(config.checkpoint.export_dir or "")
    _check_target(target)
    begin = time.perf_counter()
    reader = find_checkpoint(config.checkpoint, cluster)
    transform = counts_transform(reader, config.data.applied_transform)
    if transform is None:
        warn(
            f"{reader.folder} does not record which transform of the dense counts its model "
            f"expects, so {target} only takes transformed values; give the transform with "
            f"--applied_transform: {', '.join(TRANSFORMS)}"
        )
    size = export(reader, target, transform)
    rows = sum(reader.manifest["vocab_sizes"])
    print(
        f"{target}: step {reader.manifest['step']} of {reader.folder}, "
        f"{len(reader.manifest['vocab_sizes'])} tables with {rows:,} rows, {size:,} bytes in "
        f"{time.perf_counter() - begin:.2f} s",
        flush=True,
    )
    return EXIT_OK


def counts_transform(reader: Reader, stated: str | None = None) -> str | None:
    """Returns the transform from counts to the dense values that the model expects, or None.

    Args:
        reader: the checkpoint.
        stated: the user's --applied_transform for a checkpoint that does not record one, or None.

    Raises:
        UserError: the checkpoint records another transform.
        DamagedError: the checkpoint records a transform that does not exist.
    """
    found = manifests.expected_transform(reader.manifest)
    if found is None:
        return stated
    if found not in tuple(TRANSFORMS):
        raise DamagedError.mismatch(reader.folder, "dense transform", tuple(TRANSFORMS), found)
    if stated not in (None, found):
        problem = f"expected {found}, recorded in {reader.folder}; leave the flag out"
        raise UserError.of_flag("applied_transform", stated, problem, path=reader.folder)
    return found


def export(reader: Reader, target: str | pathlib.Path, transform: str | None) -> int:
    """Writes a SavedModel and `model.json`; returns their size in bytes.

    Needs memory for all tables and one piece of a table.

    Args:
        reader: the checkpoint.
        target: the folder to create. It is written under a temporary name and then renamed.
        transform: the result of `counts_transform`.

    Raises:
        UserError: the folder exists or cannot be written.
        DamagedError: the content of the checkpoint contradicts its flags.
    """
    target = pathlib.Path(target)
    _check_target(target)
    try:
        with atomic.new_folder(target) as partial:
            module = serving_model(reader, transform)
            signatures = {"serving_default": module.serve}
            if transform is not None:
                signatures[FROM_COUNTS] = module.serve_counts
            tf.saved_model.save(module, partial, signatures=signatures)
            text = atomic.encode_json(description(reader, transform)) + "\n"
            atomic.write_new(os.path.join(partial, DESCRIPTION), text.encode())
            size = atomic.sync_tree(partial)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        problem = f"cannot be written: {reason}"
        raise UserError.of_flag("export_dir", target, problem, path=target) from error
    return size


def serving_model(reader: Reader, transform: str | None) -> ServingDLRM:
    """Returns the `ServingDLRM` of a checkpoint; see `export` for `transform`."""
    manifest = reader.manifest
    # Tables may be too large for a GPU, so all variables stay in host memory.
    with tf.device("CPU:0"):
        dense_model = _dense_model(reader)
        tables = [_table(reader, table) for table in range(len(manifest["vocab_sizes"]))]
        return ServingDLRM(
            dense_model,
            tables,
            takes_counts=transform is not None,
            log_shift=None if transform is None else TRANSFORMS.get(transform),
            bags=manifests.bags(manifest, reader.folder),
        )


def description(reader: Reader, transform: str | None) -> dict[str, Any]:
    """Returns the content of `model.json`; see `export` for `transform`."""
    manifest = reader.manifest
    features, bags = manifests.dense_features(manifest), manifests.bags(manifest, reader.folder)
    values = "ids"
    if any(bags.variable):
        values += f"; {EMPTY} in the slots after a list of a variable feature"
    ids = {"dtype": "int64", "shape": [None, bags.slots], "values": values}
    outputs = {"probability": {"dtype": "float32", "shape": [None, 1]}}
    dense = {"dtype": "float32", "shape": [None, features]}
    taken = {None: "transformed counts, by a transform that is not recorded", "none": "counts"}
    described = {
        "format": "dlrm-saved-model",
        "version": 1,
        "step": manifest["step"],
        "checkpoint": str(reader.folder.resolve()),
        "vocab_sizes": manifest["vocab_sizes"],
        "embedding_dim": manifest["embedding_dim"],
        "dense_features": features,
        # The columns of "categorical": adjacent ones for each table; null: one for each.
        "bags": bags.description(),
        # Transform from counts to the input "dense"; null: not recorded in the checkpoint.
        "dense_transform": transform,
        "signature": {
            "name": "serving_default",
            "inputs": {
                "dense": {**dense, "values": taken.get(transform, f"{transform} of counts")},
                "categorical": ids,
            },
            "outputs": outputs,
        },
    }
    if transform is not None:
        described["counts_signature"] = {
            "name": FROM_COUNTS,
            "inputs": {"counts": {**dense, "values": "counts"}, "categorical": ids},
            "outputs": outputs,
        }
    return described


def _dense_model(reader):
    """Returns the dense part of the checkpoint in float32, with TensorFlow's ops."""
    config = _config(reader)
    names = sorted(reader.manifest["dense"], key=lambda name: int(name.split(".")[0]))
    arrays = [reader.named("dense", name) for name in names]
    # Check before creating variables: damaged flags may contain any width.
    expected = config.variable_shapes()
    if len(arrays) != len(expected):
        problem = f"expected {len(expected)} dense variables according to its flags, found "
        raise DamagedError.of_path(reader.folder, f"{problem}{len(arrays)}")
    for name, array, shape in zip(names, arrays, expected):
        if array.shape != shape or array.dtype != np.float32:
            wanted, found = f"float32 {list(shape)}", f"{array.dtype} {list(array.shape)}"
            what = f"dense variable {name} (type and shape from the checkpoint's flags)"
            raise DamagedError.mismatch(reader.folder, what, wanted, found)
    model = DenseDLRM(config)
    for variable, array in zip(model.variables, arrays):
        variable.assign(array)
    return model


def _config(reader):
    manifest, folder = reader.manifest, reader.folder
    flags = compatibility.model_flags(manifest["flags"])
    texts = {name: manifests.flag(manifest, name, folder) for name in ("bottom_mlp", "top_mlp")}
    try:
        config = DLRMConfig(
            dense_features=manifests.dense_features(manifest) or 0,
            tables=len(manifest["vocab_sizes"]),
            interaction=flags["interaction"],
            cross_layers=flags["cross_layers"],
            cross_rank=flags["cross_rank"],
            bottom_mlp=read_widths("bottom_mlp", texts["bottom_mlp"]),
            top_mlp=read_widths("top_mlp", texts["top_mlp"]),
        )
    except ValueError as error:
        raise DamagedError.of_path(folder, f"its flags are damaged: {error}") from error
    if config.bottom_mlp[-1] != manifest["embedding_dim"]:
        raise DamagedError.mismatch(
            folder, "last width of --bottom_mlp", manifest["embedding_dim"], texts["bottom_mlp"]
        )
    return config


def _table(reader: Reader, table: int) -> tf.Variable:
    """Returns a table as one variable, which is filled piece by piece."""
    rows, dimension = reader.manifest["vocab_sizes"][table], reader.manifest["embedding_dim"]
    variable = create_table(rows, dimension, name=f"table_{table:02d}")
    begin = 0
    for piece in reader.table(table):
        write_rows(variable, begin, piece)
        begin += len(piece)
    return variable


def _check_target(target: pathlib.Path) -> None:
    if target.exists() or target.is_symlink():
        problem = "already exists; give a new folder"
        raise UserError.of_flag("export_dir", target, problem, path=target)
