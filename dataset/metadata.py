"""metadata.json: what a split holds, written last, so that a folder without it is unfinished."""

import hashlib
import json
import os

from dataset.columns import TRANSFORMS
from dataset.errors import DatasetError

FILE_NAME = "metadata.json"
FORMAT_VERSION = 1
VOCAB_FILE_NAME = "vocab_sizes.json"
#: Largest number of rows that an int32 id can address.
MAX_ROWS = 2**31 - 1


def read_json(path):
    """Returns the JSON value in file `path`.

    Raises:
        DatasetError: the file cannot be read or is not JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{path}: is not JSON: {error}") from error


def fingerprint(content):
    """Returns the fingerprint of a metadata dictionary: a digest of all its other fields.

    The columns' digests are among them, so it stands for every byte of the split.
    """
    fields = {key: value for key, value in content.items() if key != "fingerprint"}
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def check_vocab_sizes(sizes, where, tables=None):
    """Returns vocabulary sizes as a list of ints.

    Raises:
        DatasetError: not a list of positive integers that int32 ids can address, or not `tables`
            of them.
    """
    if not isinstance(sizes, (list, tuple)) or not sizes:
        raise DatasetError(
            f"{where}: vocabulary sizes must be a list of at least one, found {sizes!r:.80}"
        )
    for table, size in enumerate(sizes):
        if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= MAX_ROWS:
            raise DatasetError(
                f"{where}: vocabulary size of table {table} must be an integer from 1 to "
                f"{MAX_ROWS}, found {size!r:.40}"
            )
    if tables is not None and len(sizes) != tables:
        raise DatasetError(
            f"{where}: expected {tables} vocabulary sizes, one per table, found {len(sizes)}"
        )
    return list(sizes)


def parse_vocab_sizes(text, where):
    """Returns the vocabulary sizes in `text`: a JSON list, or integers with commas between."""
    text = text.strip()
    try:
        sizes = json.loads(text if text.startswith("[") else f"[{text}]")
    except ValueError as error:
        raise DatasetError(f"{where}: not a list of integers: {text!r:.80}") from error
    return check_vocab_sizes(sizes, where)


def find_vocab_sizes(*folders):
    """Returns the sizes in the first vocab_sizes.json found in `folders`, or None."""
    for folder in folders:
        path = os.path.join(folder, VOCAB_FILE_NAME)
        if os.path.exists(path):
            return check_vocab_sizes(read_json(path), path)
    return None


def read(folder):
    """Returns the checked content of `folder`'s metadata.json, or None where there is none.

    Either this project's (it has `format_version`; its fingerprint is verified) or the seed
    benchmark's, which has only `vocab_sizes`, the raw types and `dense_log`.
    """
    path = os.path.join(folder, FILE_NAME)
    if not os.path.lexists(path):
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected a JSON object, found {type(content).__name__}")
    if "format_version" in content:
        _check_own(content, path)
    else:
        _check_seed(content, path)
    return content


_OWN_FIELDS = {
    "layout": str,
    "samples": int,
    "vocab_sizes": list,
    "dense_transform": str,
    "columns": list,
    "fingerprint": str,
}
_COLUMN_FIELDS = {"kind": str, "file": str, "dtype": str, "width": int, "digest": str}


def _check_own(content, path):
    if content["format_version"] != FORMAT_VERSION:
        raise DatasetError(
            f"{path}: format_version {content['format_version']!r}: this release reads "
            f"{FORMAT_VERSION}"
        )
    _check_fields(content, _OWN_FIELDS, path)
    check_vocab_sizes(content["vocab_sizes"], path)
    for index, column in enumerate(content["columns"]):
        where = f"{path}: columns[{index}]"
        if not isinstance(column, dict):
            raise DatasetError(f"{where}: expected an object, found {column!r:.40}")
        _check_fields(column, _COLUMN_FIELDS, where)
        if os.path.basename(column["file"]) != column["file"]:
            raise DatasetError(f"{where}: file {column['file']!r} is not a plain file name")
    applied = content.get("applied_transform")
    if applied is not None and applied not in tuple(TRANSFORMS):
        raise DatasetError(
            f"{path}: applied_transform must be one of {', '.join(TRANSFORMS)}, found "
            f"{applied!r:.40}"
        )
    auc = content.get("attainable_auc")
    if auc is not None and not isinstance(auc, float):
        raise DatasetError(f"{path}: attainable_auc must be a number, found {auc!r:.40}")
    found = fingerprint(content)
    if found != content["fingerprint"]:
        raise DatasetError(
            f"{path}: was changed after it was written: fingerprint expected "
            f"{content['fingerprint']}, found {found}; write the split anew (split_bin.py or "
            "python3 -m dataset.convert)"
        )


def _check_seed(content, path):
    check_vocab_sizes(content.get("vocab_sizes"), path)
    for key in ("label_raw_type", "dense_raw_type", "category_raw_type"):
        if content.get(key, "int32") not in ("int32", "float32"):
            raise DatasetError(f"{path}: {key} {content[key]!r}: expected int32 or float32")
    if not isinstance(content.get("dense_log", True), bool):
        raise DatasetError(
            f"{path}: dense_log must be true or false, found {content['dense_log']!r:.40}"
        )


def _check_fields(content, fields, where):
    for key, kind in fields.items():
        value = content.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            found = "nothing" if key not in content else repr(value)[:60]
            raise DatasetError(f"{where}: {key} must be of type {kind.__name__}, found {found}")
        if kind is int and value < 0:
            raise DatasetError(f"{where}: {key} must not be negative, found {value}")


def build(
    layout,
    samples,
    vocab_sizes,
    dense_transform,
    columns,
    attainable_auc=None,
    applied_transform=None,
):
    """Returns the content of a metadata.json, fingerprint included.

    Args:
        layout: name of the layout.
        samples: number of samples.
        vocab_sizes: rows of each table.
        dense_transform: what a reader still has to apply, by name.
        columns: dictionaries with kind, file, dtype, width and digest, in column order.
        attainable_auc: AUC of the generator's true probabilities, where there is one.
        applied_transform: what the stored dense values have been through, by name, where that is
            known.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "layout": layout,
        "samples": samples,
        "vocab_sizes": list(vocab_sizes),
        "dense_transform": dense_transform,
        "columns": columns,
    }
    if applied_transform is not None:
        content["applied_transform"] = applied_transform
    if layout == "three_file":
        # The keys under which the seed benchmark's reader looks.
        types = {column["kind"]: column["dtype"] for column in columns}
        content["label_raw_type"] = types["label"]
        content["dense_raw_type"] = types["dense"]
        content["category_raw_type"] = types["categorical"]
        content["dense_log"] = TRANSFORMS[dense_transform] is not None
    if attainable_auc is not None:
        content["attainable_auc"] = attainable_auc
    content["fingerprint"] = fingerprint(content)
    return content
