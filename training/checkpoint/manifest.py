"""The manifest of a checkpoint: what its files hold."""

import json
import math
import pathlib

from training.checkpoint.files import DamagedError, read_checksums, verify

NAME = "manifest.json"
FORMAT, VERSION = "dlrm-checkpoint", 1
_FIELDS = {
    "step": int, "epoch": int, "ranks": int, "vocab_sizes": list, "embedding_dim": int,
    "dense": dict, "optimizer": dict, "loss_scale": dict, "tables": list, "evaluations": list,
    "flags": dict, "data": dict, "versions": dict,
}  # fmt: skip
_ARRAY_FIELDS = ("file", "shape", "dtype")
_SHARD_FIELDS = (
    "table", "state", "row_offset", "row_stride", "rows", "column_start", "column_end",
)  # fmt: skip


def text_of(manifest):
    """Returns the manifest as it is written, format and version included."""
    return json.dumps({"format": FORMAT, "version": VERSION, **manifest}, indent=1) + "\n"


def read(folder):
    """Reads a checkpoint's manifest and verifies it, though none of the arrays.

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
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedError(f"{path}: is no JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DamagedError(f"{path}: is no manifest of a {FORMAT}")
    if manifest.get("version") != VERSION:
        raise DamagedError(
            f"{path}: format version {manifest.get('version')!r}, this program reads {VERSION}"
        )
    for name, kind in _FIELDS.items():
        if not isinstance(manifest.get(name), kind):
            raise DamagedError(f"{path}: {name} is {manifest.get(name)!r}, expected {kind}")
    for fields, group in ((_ARRAY_FIELDS, entries(manifest)), (_SHARD_FIELDS, manifest["tables"])):
        for entry in group:
            missing = [field for field in fields if field not in entry]
            if missing:
                raise DamagedError(f"{path}: an array's entry has no {', '.join(missing)}: {entry}")
    for entry in entries(manifest):
        if entry["file"] not in digests:
            raise DamagedError(f"{path}: names {entry['file']}, which has no checksum")
    return manifest, digests


def entries(manifest):
    """Returns the entries of all arrays: {file, shape, dtype, ...}."""
    named = (manifest["dense"], manifest["optimizer"], manifest["loss_scale"])
    return [entry for group in named for entry in group.values()] + manifest["tables"]


def largest_first(manifest, names):
    """Returns the names of files in the order of what the manifest says they hold, then by name."""
    sizes = {entry["file"]: math.prod(entry["shape"]) for entry in entries(manifest)}
    return sorted(names, key=lambda name: (-sizes.get(name, 0), name))


def expected_transform(manifest):
    """Returns the name of the transform from counts to the model's dense input, None if unknown."""
    data = manifest["data"]
    if "effective_transform" in data:
        return data["effective_transform"]
    # Written before this was recorded: what the reader took logarithms of were counts, but of
    # values that it took as they were, none knows what they had been through.
    transform = data.get("dense_transform")
    return None if transform == "none" else transform


def dense_features(manifest):
    """Returns the number of dense features that the model takes, None without dense variables."""
    numbered = sorted(manifest["dense"], key=lambda name: int(name.partition(".")[0]))
    return manifest["dense"][numbered[0]]["shape"][0] if numbered else None
