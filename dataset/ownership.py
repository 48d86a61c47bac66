"""Finds the files that this project wrote into a folder: only these may be replaced."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Optional, TypedDict

from dataset import layouts, metadata, vocabularies
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
    # Users write this file too; a list written by this project is repeated in generator.json.
    if "vocab_sizes" in stored and _read(path, list) == stored["vocab_sizes"]:
        names.add(vocabularies.FILE_NAME)
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
    folder: str, vocab_sizes: Sequence[int], files: dict[str, Any], **facts: Any
) -> dict[str, Any]:
    """Writes generator.json and vocab_sizes.json for the raw files in a folder.

    Args:
        folder: the folder.
        vocab_sizes: rows of each table.
        files: {name: {"samples", "attainable_auc"}} of the new raw files.
        **facts: further entries of generator.json.

    Returns:
        The new content of generator.json.

    Raises:
        storage.claim.ClaimError: this project did not write the existing generator.json.
    """
    path = os.path.join(folder, vocabularies.FILE_NAME)
    if _read(path, list) != list(vocab_sizes):
        atomic.write_json(path, list(vocab_sizes))
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
