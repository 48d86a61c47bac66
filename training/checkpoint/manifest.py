"""The manifest of a checkpoint: the content of its files."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from storage.atomic import encode_json
from storage.nonfinite import with_nulls
from storage.regular import open_regular
from storage.structured import StructureError, check_shape, parse_json
from training.checkpoint import shapes
from training.checkpoint.files import DamagedError, read_checksums, verify

NAME = "manifest.json"
FORMAT, VERSION = "dlrm-checkpoint", 1
# About 400 bytes a shard: of 26 tables on 16,384 ranks.
_MOST_BYTES = 256 << 20


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
        raise DamagedError(f"{folder}: its checksums have no line for {NAME}")
    verify(folder, NAME, digests[NAME])
    try:
        with open_regular(path) as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise DamagedError(f"{path}: expected at most {_MOST_BYTES} bytes, found more")
        manifest = parse_json(with_nulls(data), str(path), shapes.Header)
        if manifest.get("format") != FORMAT:
            raise DamagedError(f"{path}: is no manifest of a {FORMAT}")
        if manifest.get("version") != VERSION:
            raise DamagedError(
                f"{path}: format version {str(manifest.get('version'))[:40]}, this program reads "
                f"{VERSION}"
            )
        check_shape(manifest, str(path), shapes.Manifest)
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror}") from error
    except StructureError as error:
        raise DamagedError(str(error)) from error
    _check_shards(manifest, path)
    for entry in entries(manifest):
        if entry["file"] not in digests:
            raise DamagedError(f"{path}: names {entry['file']}, which has no checksum")
    return manifest, digests


def flag(manifest: Mapping[str, Any], name: str, folder: str | os.PathLike) -> Any:
    """Returns the value of a flag that the checkpoint in `folder` was trained with.

    Raises:
        DamagedError: the manifest does not have it.
    """
    if name not in manifest["flags"]:
        raise DamagedError(f"{pathlib.Path(folder) / NAME}: flags.{name}: is missing")
    return manifest["flags"][name]


def _check_shards(manifest: Mapping[str, Any], path: pathlib.Path) -> None:
    """Raises DamagedError if the shards of tables contradict themselves or each other."""
    sizes, dimension = manifest["vocab_sizes"], manifest["embedding_dim"]
    seen: set[tuple] = set()
    axes: dict[tuple[int, str], int] = {}
    for index, entry in enumerate(manifest["tables"]):
        where = f"{path}: tables[{index}]"
        if entry["table"] >= len(sizes):
            raise DamagedError(
                f"{where}.table: expected 0 to {len(sizes) - 1}, found {entry['table']}"
            )
        width = entry["column_end"] - entry["column_start"]
        if not 0 < width <= entry["column_end"] <= dimension:
            raise DamagedError(
                f"{where}: columns {entry['column_start']} to {entry['column_end']}, expected "
                f"some of {dimension}"
            )
        last = entry["row_offset"] + entry["row_stride"] * (entry["rows"] - 1)
        if entry["rows"] and last >= sizes[entry["table"]]:
            raise DamagedError(
                f"{where}: its last row is {last}, expected at most {sizes[entry['table']] - 1}"
            )
        # The optimizer may keep one number for a row; all parts are alike in that.
        shape = [entry["rows"], width]
        if entry["state"] != "table":
            shape = shape[: axes.setdefault((entry["table"], entry["state"]), len(entry["shape"]))]
        if entry["shape"] != shape:
            raise DamagedError(f"{where}.shape: expected {shape}, found {entry['shape']}")
        key = tuple(entry[name] for name in ("table", "state", "row_offset", "column_start"))
        if key in seen and entry["rows"]:
            raise DamagedError(f"{where}: another part of table {key[0]} begins where it does")
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
    """Returns the name of the transform from counts to the model's dense input, None if unknown."""
    data = manifest["data"]
    if "effective_transform" in data:
        return data["effective_transform"]
    # Written before this was recorded: the reader took logarithms of counts only, but values that
    # it left unchanged may have been transformed before.
    transform = data.get("dense_transform")
    return None if transform == "none" else transform


def dense_features(manifest: Mapping[str, Any]) -> int | None:
    """Returns the number of dense features that the model takes, None without dense variables."""
    numbered = sorted(manifest["dense"], key=lambda name: int(name.partition(".")[0]))
    shape = manifest["dense"][numbered[0]]["shape"] if numbered else []
    return shape[0] if shape else None
