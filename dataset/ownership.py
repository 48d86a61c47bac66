"""Finds the files that this project wrote into a folder: only these may be replaced."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Optional, TypedDict

from dataset import layouts, metadata, vocabularies
from dataset.errors import DatasetError
from ops.bags import Bags
from storage import atomic, structured
from storage.claim import check_replaceable

#: Not `float | None`, which Python 3.9 does not evaluate.
_Auc = Optional[float]


class _Boundaries(TypedDict):
    file: str


class _ColumnRequired(TypedDict):
    file: str


class _Column(_ColumnRequired, total=False):
    offsets: _Boundaries


class _Split(TypedDict):
    format_version: int
    columns: list[_Column]


class _RawFile(TypedDict):
    samples: int
    attainable_auc: _Auc


class _Generator(TypedDict):
    files: dict[str, _RawFile]


def split_files(folder: str) -> frozenset[str]:
    """Returns the file names of a split that this project wrote, including metadata.json.

    A metadata.json that was edited still lists the files; the seed benchmark's lists none.
    """
    stored = _read(os.path.join(folder, metadata.FILE_NAME), _Split)
    if stored is None:
        return frozenset()
    names = [column["file"] for column in stored["columns"]]
    names += [column["offsets"]["file"] for column in stored["columns"] if "offsets" in column]
    return frozenset(n for n in names if os.path.basename(n) == n) | {metadata.FILE_NAME}


def raw_files(folder: str) -> frozenset[str]:
    """Returns the names of raw files, and their side files, that this project wrote."""
    stored = _read(os.path.join(folder, layouts.GENERATOR_FILE), _Generator)
    if stored is None:
        return frozenset()
    names = {layouts.GENERATOR_FILE, *stored["files"]}
    path = os.path.join(folder, vocabularies.FILE_NAME)
    # Users write these files too; content written by this project is repeated in generator.json.
    if "vocab_sizes" in stored and _read(path, list) == stored["vocab_sizes"]:
        names.add(vocabularies.FILE_NAME)
    if "metadata" in stored and _read_metadata(folder) == stored["metadata"]:
        names.add(metadata.FILE_NAME)
    return frozenset(names)


def record_raw(path: str, samples: int, attainable_auc: float | None) -> None:
    """Adds a raw file and its attainable AUC (None if unknown) to generator.json.

    Raises:
        storage.claim.ClaimError: this project did not write the existing generator.json.
    """
    side = os.path.join(os.path.dirname(path), layouts.GENERATOR_FILE)
    facts = _generator_facts(side)
    facts["files"][os.path.basename(path)] = {"samples": samples, "attainable_auc": attainable_auc}
    atomic.write_json(side, facts)


def forget_raw(path: str) -> None:
    """Removes a raw file from generator.json, before the file is replaced."""
    side = os.path.join(os.path.dirname(path), layouts.GENERATOR_FILE)
    facts = _generator_facts(side)
    if facts["files"].pop(os.path.basename(path), None) is not None:
        atomic.write_json(side, facts)


def record_dataset(
    folder: str,
    vocab_sizes: Sequence[int],
    files: dict[str, Any],
    bags: Bags | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Writes generator.json and vocab_sizes.json for the raw files in a folder.

    For several ids per table, also metadata.json, which `dataset.layouts.raw_metadata` reads.

    Args:
        folder: the folder.
        vocab_sizes: rows of each table.
        files: {name: {"samples", "attainable_auc"}} of the new raw files.
        bags: the ids of each table; default: one.
        **facts: further entries of generator.json.

    Returns:
        The new content of generator.json.

    Raises:
        storage.claim.ClaimError: this project did not write the existing generator.json.
    """
    path = os.path.join(folder, vocabularies.FILE_NAME)
    if _read(path, list) != list(vocab_sizes):
        atomic.write_json(path, list(vocab_sizes))
    stored = raw_metadata(vocab_sizes, bags)
    if stored is not None:
        facts["metadata"] = stored
        if _read_metadata(folder) != stored:
            atomic.write_json(os.path.join(folder, metadata.FILE_NAME), stored)
    elif metadata.FILE_NAME in raw_files(folder):
        os.unlink(os.path.join(folder, metadata.FILE_NAME))
    side = os.path.join(folder, layouts.GENERATOR_FILE)
    files = {**_generator_facts(side)["files"], **files}
    content = {**facts, "vocab_sizes": list(vocab_sizes), "files": files}
    atomic.write_json(side, content)
    return content


def check_generator(folder: str) -> None:
    """Raises `storage.claim.ClaimError` if this project did not write the generator.json."""
    _generator_facts(os.path.join(folder, layouts.GENERATOR_FILE))


def check_vocab_sizes(folder: str, vocab_sizes: Sequence[int], replaceable: bool) -> None:
    """Checks that `record_dataset` does not overwrite a user's vocab_sizes.json.

    Args:
        folder: the folder of the file.
        vocab_sizes: its new content; a file with equal content is kept.
        replaceable: whether this project wrote the existing file and may replace it.

    Raises:
        storage.claim.ClaimError: the file exists, with other sizes, and may not be replaced.
    """
    path = os.path.join(folder, vocabularies.FILE_NAME)
    check_replaceable(path, lambda: replaceable or _read(path, list) == list(vocab_sizes))


def raw_metadata(vocab_sizes: Sequence[int], bags: Bags | None) -> dict[str, Any] | None:
    """Returns the content of the metadata.json next to raw files; None if each table has one id."""
    if bags is None or bags.is_one_hot:
        return None
    content: dict[str, Any] = {
        "vocab_sizes": list(vocab_sizes),
        "hotness_per_table": list(bags.hotness),
    }
    if "mean" in bags.pooling:
        content["pooling_per_table"] = list(bags.pooling)
    return content


def check_raw_metadata(folder: str, content: dict[str, Any] | None, replaceable: bool) -> None:
    """Checks that a user's metadata.json is not overwritten, and does not describe the raw files.

    Args:
        folder: the folder of the file.
        content: its new content (`raw_metadata`).
        replaceable: whether this project wrote the existing file and may replace it.

    Raises:
        storage.claim.ClaimError: the file exists, with other content, and may not be replaced.
    """
    if content is None and _description(folder) is None:
        return
    path = os.path.join(folder, metadata.FILE_NAME)
    check_replaceable(path, lambda: replaceable or _read_metadata(folder) == content)


def check_description(path: str, content: dict[str, Any] | None, sources: Sequence[str]) -> None:
    """Checks that the metadata.json next to a single raw file can describe it.

    Args:
        path: the raw file to write.
        content: the content that describes it (`raw_metadata`).
        sources: raw files that are read.

    Raises:
        DatasetError: other raw files in the folder need another description.
        storage.claim.ClaimError: this project did not write the existing metadata.json.
    """
    folder, name = os.path.split(os.path.abspath(path))
    different = _difference(content, _description(folder))
    if different is None:
        return
    stored = _read(os.path.join(folder, layouts.GENERATOR_FILE), _Generator) or {"files": {}}
    others = {os.path.basename(source) for source in sources if _is_in(source, folder)}
    others.update(n for n in (*stored["files"], *layouts.RAW_FILES) if _exists(folder, n))
    side = os.path.join(folder, metadata.FILE_NAME)
    if others - {name}:
        key, expected, found = different
        what = f"describes all raw files of the folder: {key} of {name}"
        advice = f", for {min(others - {name})}; choose a destination in another folder"
        raise DatasetError.mismatch(side, what, expected, found, advice, field=key)
    check_replaceable(side, lambda: metadata.FILE_NAME in raw_files(folder))


def remove_description(path: str, content: dict[str, Any] | None) -> None:
    """Removes a metadata.json of this project that does not describe the raw file `path`."""
    folder = os.path.dirname(os.path.abspath(path))
    if _difference(content, _description(folder)) and metadata.FILE_NAME in raw_files(folder):
        os.unlink(os.path.join(folder, metadata.FILE_NAME))


def write_description(path: str, content: dict[str, Any] | None) -> None:
    """Writes the metadata.json that describes the raw file `path`, unless it is there.

    Args:
        path: the raw file.
        content: as for `check_description`, which must have been called.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if content is None or _difference(content, _description(folder)) is None:
        return
    side = os.path.join(folder, layouts.GENERATOR_FILE)
    # First the record that the file is ours.
    atomic.write_json(side, {**_generator_facts(side), "metadata": content})
    atomic.write_json(os.path.join(folder, metadata.FILE_NAME), content)


def _description(folder):
    """Returns the content of a metadata.json that describes raw files, else None."""
    found = _read_metadata(folder)
    return found if found is not None and metadata.describes_raw(found) else None


def _difference(expected, found):
    """Returns (key, expected, found) for the first difference of two descriptions, or None."""
    nothing = {"hotness_per_table": "one id each", "pooling_per_table": "sum"}
    for key in ("hotness_per_table", "vocab_sizes", "pooling_per_table"):
        values = [(content or {}).get(key, nothing.get(key)) for content in (expected, found)]
        if values[0] != values[1]:
            return key, *values
    return None


def _is_in(path, folder):
    return os.path.realpath(os.path.dirname(os.path.abspath(path))) == os.path.realpath(folder)


def _exists(folder, name):
    return os.path.lexists(os.path.join(folder, name))


def _read_metadata(folder):
    return _read(os.path.join(folder, metadata.FILE_NAME), dict)


def _generator_facts(path):
    """Returns the content of a generator.json; without such a file, {"files": {}}."""
    stored = _read(path, _Generator)
    check_replaceable(path, lambda: stored is not None)
    return {"files": {}} if stored is None else stored


def _read(path, shape):
    try:
        return structured.read_json(path, shape)
    except (OSError, structured.StructureError):
        return None
