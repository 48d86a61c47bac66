"""Dictionaries on disk, the same for every engine: values in the order of their ids.

A folder holds `C1.npy` .. `C26.npy` (uint32: the values of ids `first_id`, `first_id` + 1, ...) and
`dictionary.json`: format version, rule ("modulo" or "frequency") with its parameter, first_id, and
file, entries, vocabulary size and CRC-32 of each column.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import numpy as np

from dataset.preprocessing import vectors
from dataset.preprocessing.columns import CATEGORICAL, CATEGORICAL_NAMES
from dataset.preprocessing.errors import DictionaryError
from storage.atomic import replacing, write_json
from storage.digests import crc32_of_file
from storage.structured import StructureError, check_shape, read_json

FORMAT_VERSION = 1
_MAX_ROWS = 2**31 - 1
MANIFEST = "dictionary.json"


class Rule:
    """How values become ids.

    Attributes:
        name: "modulo" or "frequency".
        max_rows: M of the modulo rule, else None.
        threshold: smallest count for which a value gets its own id; 1 under modulo.
        first_id: 0 under modulo; 1 under frequency, where missing and rare values share id 0.
    """

    def __init__(self, max_rows: int | None = None, threshold: int | None = None):
        self.name = "frequency" if max_rows is None else "modulo"
        self.max_rows = max_rows
        self.threshold = 1 if threshold is None else threshold
        self.first_id = 1 if max_rows is None else 0

    def describe(self) -> dict[str, Any]:
        """Returns the rule as JSON types."""
        name = "frequency_threshold" if self.max_rows is None else "max_table_rows"
        parameter = self.max_rows or self.threshold
        return {"rule": self.name, "first_id": self.first_id, name: parameter}

    def vocab_size(self, entries: int) -> int:
        """Returns the rows of the table for a dictionary of `entries` values; at least 1."""
        return max(1, entries + self.first_id)


def column_path(folder: str, column: int) -> str:
    """Returns the file of column `column` (from 0)."""
    return os.path.join(folder, f"{CATEGORICAL_NAMES[column]}.npy")


def write_column(path: str, values: np.ndarray) -> None:
    """Writes uint32 `values`, in the order of ids, as .npy."""
    with replacing(path) as file:
        vectors.write(file, np.ascontiguousarray(values, np.uint32))


def write_manifest(folder: str, rule: Rule) -> None:
    """Writes dictionary.json for the column files in `folder`, which completes the dictionary."""
    columns = []
    for column in range(CATEGORICAL):
        path = column_path(folder, column)
        entries = load_column(folder, column).size
        size, crc32 = rule.vocab_size(entries), crc32_of_file(path)
        facts = {"file": os.path.basename(path), "entries": entries, "vocab_size": size}
        columns.append({**facts, "crc32": crc32})
    manifest = {"format_version": FORMAT_VERSION, **rule.describe(), "columns": columns}
    write_json(os.path.join(folder, MANIFEST), manifest)


class _Column(TypedDict):
    file: str
    entries: Annotated[int, msgspec.Meta(ge=0, le=_MAX_ROWS)]
    vocab_size: Annotated[int, msgspec.Meta(ge=1, le=_MAX_ROWS)]
    crc32: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class _Manifest(TypedDict):
    format_version: Literal[1]
    rule: Literal["modulo", "frequency"]
    columns: Annotated[list[_Column], msgspec.Meta(min_length=CATEGORICAL, max_length=CATEGORICAL)]


class _ModuloManifest(TypedDict):
    max_table_rows: Annotated[int, msgspec.Meta(ge=1, le=_MAX_ROWS)]


class _FrequencyManifest(TypedDict):
    frequency_threshold: Annotated[int, msgspec.Meta(ge=1, le=_MAX_ROWS)]


def read_manifest(folder: str) -> tuple[Rule, dict[str, Any]]:
    """Checks every file of a saved dictionary; returns (Rule, manifest).

    Raises:
        DictionaryError: a file is missing, damaged, or of another format version.
    """
    path = os.path.join(folder, MANIFEST)
    try:
        manifest = read_json(path, _Manifest)
        if manifest["rule"] == "modulo":
            check_shape(manifest, path, _ModuloManifest)
            rule = Rule(max_rows=manifest["max_table_rows"])
        else:
            check_shape(manifest, path, _FrequencyManifest)
            rule = Rule(threshold=manifest["frequency_threshold"])
    except OSError as error:
        raise _unreadable(path, error) from error
    except StructureError as error:
        raise DictionaryError.of(error) from error
    for column, facts in enumerate(manifest["columns"]):
        file = column_path(folder, column)
        size = rule.vocab_size(facts["entries"])
        _check(path, column, "file", os.path.basename(file), facts)
        _check(path, column, "vocab_size", size, facts)
        try:
            checksum = crc32_of_file(file)
        except OSError as error:
            raise _unreadable(file, error) from error
        if checksum != facts["crc32"]:
            raise DictionaryError.of_path(
                file, f"damaged: expected CRC-32 {facts['crc32']:08x}, found {checksum:08x}"
            )
        _check(path, column, "entries", load_column(folder, column).size, facts)
    return rule, manifest


def _check(path, column, name, expected, facts):
    if facts[name] != expected:
        field = f"columns[{column}].{name}"
        problem = f"{field}: expected {expected!r}, found {facts[name]!r:.60}"
        raise DictionaryError.of_path(path, problem, field=field)


def _unreadable(path, error):
    return DictionaryError.of_path(path, f"cannot be read: {error.strerror}")


def load_column(folder: str, column: int) -> np.ndarray:
    """Returns the values of a column in the order of ids: uint32, memory-mapped.

    Raises:
        DictionaryError: the file is missing, damaged, or of another type.
    """
    path = column_path(folder, column)
    try:
        values = vectors.load(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, OverflowError) as error:
        raise DictionaryError.of_path(path, f"damaged: {error}") from error
    if values.dtype != np.uint32 or values.ndim != 1:
        found = f"{values.dtype} {list(values.shape)}"
        raise DictionaryError.of_path(path, f"expected a vector of uint32, found {found}")
    return values
