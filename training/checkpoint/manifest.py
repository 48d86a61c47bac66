"""The manifest of a checkpoint, which describes its files."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from ops.bags import Bags
from storage.atomic import encode_json
from storage.nonfinite import with_nulls
from storage.regular import open_regular
from storage.structured import StructureError, check_shape, parse_json
from training.checkpoint import manifest_schema
from training.checkpoint.checksums import CHECKSUMS, read_checksums, verify_file
from training.checkpoint.errors import DamagedError

NAME = "manifest.json"
FORMAT, VERSION = "dlrm-checkpoint", 1
# At about 400 bytes per shard, enough for 26 tables on 16,384 ranks.
_MAX_BYTES = 256 << 20


def array_bytes(entry: dict[str, Any]) -> int:
    """Returns the bytes of an array's values, from its entry in a manifest."""
    return math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize


def text_of(manifest: Mapping[str, Any]) -> str:
    """Returns the manifest as JSON text, with format and version."""
    return encode_json({"format": FORMAT, "version": VERSION, **manifest}) + "\n"


def read(folder: str | os.PathLike) -> tuple[dict[str, Any], dict[str, str]]:
    """Reads and verifies a checkpoint's manifest, without the arrays.

    Returns:
        (the manifest, {name: SHA-256} of all files).

    Raises:
        DamagedError: manifest or checksums are missing, damaged or of another version.
    """
    folder = pathlib.Path(folder)
    digests = read_checksums(folder)
    path = folder / NAME
    if NAME not in digests:
        raise DamagedError.of_path(path, f"has no line in {CHECKSUMS}")
    verify_file(folder, NAME, digests[NAME])
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            problem = f"expected at most {_MAX_BYTES} bytes, found more"
            raise DamagedError.of_path(path, problem, bound=_MAX_BYTES)
        manifest = parse_json(with_nulls(data), str(path), manifest_schema.Header)
        for field, expected in (("format", FORMAT), ("version", VERSION)):
            found = str(manifest.get(field))[:40]
            if manifest.get(field) != expected:
                raise DamagedError.of_path(path, f"{field}: expected {expected}, found {found}")
        check_shape(manifest, str(path), manifest_schema.Manifest)
    except OSError as error:
        raise DamagedError.of_path(path, str(error.strerror)) from error
    except StructureError as error:
        raise DamagedError.of(error) from error
    _check_shards(manifest, path)
    for entry in entries(manifest):
        if entry["file"] not in digests:
            raise DamagedError.of_path(folder / entry["file"], f"has no line in {CHECKSUMS}")
    return manifest, digests


def flag(manifest: Mapping[str, Any], name: str, folder: str | os.PathLike) -> Any:
    """Returns the value of a flag that the checkpoint in `folder` was trained with.

    Raises:
        DamagedError: the manifest does not have it.
    """
    if name not in manifest["flags"]:
        path = pathlib.Path(folder) / NAME
        raise DamagedError.of_path(path, f"flags.{name}: missing", flag=name)
    return manifest["flags"][name]


def _check_shards(manifest: Mapping[str, Any], path: pathlib.Path) -> None:
    """Raises DamagedError if shards are inconsistent in themselves or with each other."""

    def fail(index: int, text: str, **fields: Any) -> NoReturn:
        table = manifest["tables"][index]["table"]
        raise DamagedError.of_path(path, f"tables[{index}]{text}", table=table, **fields)

    sizes, dimension = manifest["vocab_sizes"], manifest["embedding_dim"]
    seen: set[tuple] = set()
    axes: dict[tuple[int, str], int] = {}
    for index, entry in enumerate(manifest["tables"]):
        if entry["table"] >= len(sizes):
            last = len(sizes) - 1
            fail(index, f".table: expected 0 to {last}, found {entry['table']}", bound=last)
        width = entry["column_end"] - entry["column_start"]
        if not 0 < width <= entry["column_end"] <= dimension:
            columns = f"{entry['column_start']} to {entry['column_end']}"
            text = f": expected columns within 0 to {dimension}, found {columns}"
            fail(index, text, bound=dimension)
        last = entry["row_offset"] + entry["row_stride"] * (entry["rows"] - 1)
        if entry["rows"] and last >= sizes[entry["table"]]:
            bound = sizes[entry["table"]] - 1
            fail(index, f": expected a last row of at most {bound}, found {last}", bound=bound)
        # An optimizer state is a vector or one number per row, the same in all parts of a table.
        shape = [entry["rows"], width]
        if entry["state"] != "table":
            shape = shape[: axes.setdefault((entry["table"], entry["state"]), len(entry["shape"]))]
        if entry["shape"] != shape:
            fail(index, f".shape: expected {shape}, found {entry['shape']}")
        key = tuple(entry[name] for name in ("table", "state", "row_offset", "column_start"))
        if key in seen and entry["rows"]:
            fail(index, f": another part of table {key[0]} starts at the same row and column")
        seen.add(key)


def entries(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the entries of all arrays: {file, shape, dtype, ...}."""
    named = (manifest["dense"], manifest["optimizer"], manifest["loss_scale"])
    return [entry for group in named for entry in group.values()] + manifest["tables"]


def largest_first(manifest: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Returns the names of files, largest array first, then by name."""
    sizes = {entry["file"]: math.prod(entry["shape"]) for entry in entries(manifest)}
    return sorted(names, key=lambda name: (-sizes.get(name, 0), name))


def expected_transform(manifest: Mapping[str, Any]) -> str | None:
    """Returns the name of the transform from counts to the model's dense input; None if unknown."""
    data = manifest["data"]
    if "effective_transform" in data:
        return data["effective_transform"]
    # Older checkpoints record only what the reader did. It took logarithms of counts only, but
    # values that it left unchanged may have been transformed earlier.
    transform = data.get("dense_transform")
    return None if transform == "none" else transform


def bags(manifest: Mapping[str, Any], folder: str | os.PathLike) -> Bags:
    """Returns the slots of the model's features.

    Raises:
        DamagedError: the checkpoint in `folder` records those of another number of tables.
    """
    try:
        return Bags.from_description(manifest["data"].get("bags"), len(manifest["vocab_sizes"]))
    except ValueError as error:
        raise DamagedError.of_path(pathlib.Path(folder) / NAME, f"data.bags: {error}") from error


def dense_features(manifest: Mapping[str, Any]) -> int | None:
    """Returns the model's number of dense features; None without dense variables."""
    numbered = sorted(manifest["dense"], key=lambda name: int(name.partition(".")[0]))
    shape = manifest["dense"][numbered[0]]["shape"] if numbered else []
    return shape[0] if shape else None
