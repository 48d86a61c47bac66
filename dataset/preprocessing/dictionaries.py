"""Dictionaries on disk, in a form that no engine owns: values in the order of their ids.

A folder holds `C1.npy` .. `C26.npy` (uint32, value of id `first_id`, `first_id` + 1, ...) and
`dictionary.json`: format version, rule ("modulo" or "frequency") with its parameter, first_id,
and for each column its file, entries, vocabulary size and CRC-32.
"""

from __future__ import annotations

import json
import os

import numpy as np

from dataset.preprocessing import durable
from dataset.preprocessing.columns import CATEGORICAL, CATEGORICAL_NAMES
from dataset.preprocessing.errors import DictionaryError

FORMAT_VERSION = 1
MANIFEST = "dictionary.json"


class Rule:
    """How values become ids.

    Attributes:
        name: "modulo" or "frequency".
        max_rows: M of the modulo rule, else None.
        threshold: smallest count that gets an id of its own; 1 under modulo.
        first_id: 0 under modulo; 1 under frequency, where missing and rare values share 0.
    """

    def __init__(self, max_rows=None, threshold=None):
        self.name = "frequency" if max_rows is None else "modulo"
        self.max_rows = max_rows
        self.threshold = 1 if threshold is None else threshold
        self.first_id = 1 if max_rows is None else 0

    def describe(self):
        """Returns the rule as JSON types."""
        parameter = (
            {"frequency_threshold": self.threshold}
            if self.max_rows is None
            else {"max_table_rows": self.max_rows}
        )
        return {"rule": self.name, "first_id": self.first_id, **parameter}

    def vocab_size(self, entries):
        """Returns the rows of a table whose dictionary has `entries` values; at least 1."""
        return max(1, entries + self.first_id)


def column_path(folder, column):
    """Returns the file of column `column` (from 0)."""
    return os.path.join(folder, f"{CATEGORICAL_NAMES[column]}.npy")


def write_column(path, values):
    """Writes uint32 `values`, in id order, as .npy."""
    with durable.replacing(path) as partial, open(partial, "wb") as file:
        np.save(file, np.asarray(values, np.uint32), allow_pickle=False)


def write_manifest(folder, rule):
    """Writes dictionary.json for the column files in `folder`; makes the dictionary complete."""
    columns = []
    for column in range(CATEGORICAL):
        path = column_path(folder, column)
        entries = int(np.load(path, mmap_mode="r", allow_pickle=False).size)
        columns.append(
            {
                "file": os.path.basename(path),
                "entries": entries,
                "vocab_size": rule.vocab_size(entries),
                "crc32": durable.checksum(path),
            }
        )
    manifest = {"format_version": FORMAT_VERSION, **rule.describe(), "columns": columns}
    durable.write_json(os.path.join(folder, MANIFEST), manifest)


def read_manifest(folder):
    """Returns (Rule, manifest) of a saved dictionary, after checking every file.

    Raises:
        DictionaryError: missing, damaged, or of another format version.
    """
    path = os.path.join(folder, MANIFEST)
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
    except OSError as error:
        raise DictionaryError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DictionaryError(f"{path}: not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        raise DictionaryError(f"{path}: expected format_version {FORMAT_VERSION}")
    try:
        if manifest["rule"] == "modulo":
            rule = Rule(max_rows=int(manifest["max_table_rows"]))
            if not 1 <= rule.max_rows < 2**31:
                raise ValueError(f"max_table_rows {rule.max_rows}")
        else:
            rule = Rule(threshold=int(manifest["frequency_threshold"]))
        columns = manifest["columns"]
        facts = [(c["file"], int(c["entries"]), int(c["crc32"])) for c in columns]
    except (KeyError, TypeError, ValueError) as error:
        raise DictionaryError(f"{path}: damaged: {error!r}") from error
    if len(facts) != CATEGORICAL:
        raise DictionaryError(f"{path}: expected {CATEGORICAL} columns, found {len(facts)}")
    for column, (name, entries, crc32) in enumerate(facts):
        expected = column_path(folder, column)
        if os.path.basename(expected) != name:
            raise DictionaryError(f"{path}: column {column + 1}: unexpected file name {name!r}")
        if not os.path.exists(expected):
            raise DictionaryError(f"{expected}: missing")
        if durable.checksum(expected) != crc32:
            raise DictionaryError(f"{expected}: damaged: its checksum is not the recorded one")
        found = load_column(folder, column).size
        if found != entries:
            raise DictionaryError(f"{expected}: expected {entries} values, found {found}")
    return rule, manifest


def load_column(folder, column):
    """Returns the values of a column in id order: uint32, memory-mapped."""
    path = column_path(folder, column)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DictionaryError(f"{path}: cannot be read: {error}") from error
    if values.dtype != np.uint32 or values.ndim != 1:
        raise DictionaryError(f"{path}: expected a vector of uint32")
    return values
