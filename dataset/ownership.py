"""Which files of a folder are a dataset's that this project wrote: they alone may be replaced."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Optional, TypedDict

from dataset import layouts, metadata, vocabularies
from storage import atomic, structured
from storage.claim import check_replaceable

#: Not `float | None`, which Python 3.9 does not evaluate.
_Auc = Optional[float]


class _Column(TypedDict):
    file: str


class _Split(TypedDict):
    format_version: int
    columns: list[_Column]


class _RawFile(TypedDict):
    samples: int
    attainable_auc: _Auc


class _Generator(TypedDict):
    files: dict[str, _RawFile]


def split_files(folder: str) -> frozenset[str]:
    """Returns the names of the files of a split, metadata.json among them; none if it is not ours.

    A metadata.json that was changed by hand still names them; the seed benchmark's names none.
    """
    stored = _read(os.path.join(folder, metadata.FILE_NAME), _Split)
    if stored is None:
        return frozenset()
    names = (column["file"] for column in stored["columns"])
    return frozenset(n for n in names if os.path.basename(n) == n) | {metadata.FILE_NAME}


def raw_files(folder: str) -> frozenset[str]:
    """Returns the names of raw files in a folder that are ours, with what stands beside them."""
    stored = _read(os.path.join(folder, layouts.GENERATOR_FILE), _Generator)
    if stored is None:
        return frozenset()
    names = {layouts.GENERATOR_FILE, *stored["files"]}
    path = os.path.join(folder, vocabularies.FILE_NAME)
    # Users write such a list too: ours is the one that generator.json repeats.
    if "vocab_sizes" in stored and _read(path, list) == stored["vocab_sizes"]:
        names.add(vocabularies.FILE_NAME)
    return frozenset(names)


def record_raw(path: str, samples: int, attainable_auc: float | None) -> None:
    """Writes into generator.json that we wrote a raw file: what the file cannot say itself.

    Args:
        path: the raw file.
        samples: how many it holds.
        attainable_auc: AUC of the true probabilities, None if unknown.

    Raises:
        storage.claim.ClaimError: the generator.json beside it is not ours.
    """
    side = os.path.join(os.path.dirname(path), layouts.GENERATOR_FILE)
    facts = _generator_facts(side)
    facts["files"][os.path.basename(path)] = {"samples": samples, "attainable_auc": attainable_auc}
    atomic.write_json(side, facts)


def forget_raw(path: str) -> None:
    """Removes a raw file's entry from generator.json: it is about to be replaced."""
    side = os.path.join(os.path.dirname(path), layouts.GENERATOR_FILE)
    facts = _generator_facts(side)
    if facts["files"].pop(os.path.basename(path), None) is not None:
        atomic.write_json(side, facts)


def record_dataset(
    folder: str, vocab_sizes: Sequence[int], files: dict[str, Any], **facts: Any
) -> dict[str, Any]:
    """Writes into generator.json, and vocab_sizes.json, what we know of a folder's raw files.

    Args:
        folder: theirs.
        vocab_sizes: rows of each table.
        files: {name: {"samples", "attainable_auc"}} of those that were written.
        **facts: more of what generator.json says.

    Returns:
        What generator.json holds now.

    Raises:
        storage.claim.ClaimError: the generator.json is not ours.
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
    """Raises `storage.claim.ClaimError` where a folder's generator.json is somebody else's."""
    _generator_facts(os.path.join(folder, layouts.GENERATOR_FILE))


def check_vocab_sizes(folder: str, vocab_sizes: Sequence[int], replaceable: bool) -> None:
    """Checks that `record_dataset` loses no vocab_sizes.json of somebody else's.

    Args:
        folder: where it would be.
        vocab_sizes: what it would hold; one that holds the same stays.
        replaceable: whether one of ours may be replaced.

    Raises:
        storage.claim.ClaimError: it is there, with other sizes, and may not be replaced.
    """
    path = os.path.join(folder, vocabularies.FILE_NAME)
    check_replaceable(path, lambda: replaceable or _read(path, list) == list(vocab_sizes))


def _generator_facts(path):
    """Returns what a generator.json holds; of none: that there are no files."""
    stored = _read(path, _Generator)
    check_replaceable(path, lambda: stored is not None)
    return {"files": {}} if stored is None else stored


def _read(path, shape):
    try:
        return structured.read_json(path, shape)
    except (OSError, structured.StructureError):
        return None
