"""metadata.json describes a split. It is written last: a folder without it is incomplete."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Optional, TypedDict

import msgspec

from dataset import files, vocabularies
from dataset.columns import TRANSFORMS
from dataset.errors import DatasetError
from storage.digests import sha256_of

FILE_NAME = "metadata.json"
FORMAT_VERSION = 1
#: Layouts that this project writes with a metadata.json.
OWN_LAYOUTS = ("three_file", "per_table")


#: Not `float | None`, which Python 3.9 does not evaluate.
_Auc = Optional[float]
_Transform = Optional[str]


class _Column(TypedDict):
    kind: Literal["label", "dense", "categorical"]
    file: str
    dtype: str
    width: Annotated[int, msgspec.Meta(ge=1)]
    digest: str


class _OwnRequired(TypedDict):
    format_version: int
    layout: str
    samples: Annotated[int, msgspec.Meta(ge=0)]
    vocab_sizes: vocabularies.Sizes
    dense_transform: str
    columns: list[_Column]
    fingerprint: str


class _Own(_OwnRequired, total=False):
    attainable_auc: _Auc
    applied_transform: _Transform


class _SeedRequired(TypedDict):
    vocab_sizes: vocabularies.Sizes


class _Seed(_SeedRequired, total=False):
    label_raw_type: Literal["int32", "float32"]
    dense_raw_type: Literal["int32", "float32"]
    category_raw_type: Literal["int32"]
    dense_log: bool
    # Ids per sample of each table, in the seed benchmark's later, multi-hot data.
    hotness_per_table: list[int]


def fingerprint(content: Mapping[str, Any]) -> str:
    """Returns the fingerprint of a metadata dictionary: a digest of all its other fields.

    These include the digests of the columns, so it covers every byte of the split.
    """
    fields = {key: value for key, value in content.items() if key != "fingerprint"}
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return "sha256:" + sha256_of(canonical)


def read(folder: str) -> dict[str, Any] | None:
    """Returns the checked content of the metadata.json in `folder`, or None if there is none.

    It is either this project's, with `format_version` and a verified fingerprint, or the seed
    benchmark's, with only `vocab_sizes`, the raw types and `dense_log`.

    Raises:
        DatasetError: the file is invalid, or was changed.
    """
    path = os.path.join(folder, FILE_NAME)
    if not files.exists(path) and not os.path.islink(path):
        return None
    content = files.read_json(path, dict[str, Any])
    if "format_version" in content:
        _check_own(content, path)
    else:
        _check_seed(content, path)
    return content


def _check_own(content, path):
    if content["format_version"] != FORMAT_VERSION:
        raise _wrong(path, "format_version", FORMAT_VERSION, content["format_version"])
    files.check_shape(content, path, _Own)
    for index, column in enumerate(content["columns"]):
        name = column["file"]
        if os.path.basename(name) != name or name in ("", os.curdir, os.pardir):
            raise _wrong(path, f"columns[{index}].file", "a plain file name", name)
    applied = content.get("applied_transform")
    if applied is not None and applied not in tuple(TRANSFORMS):
        raise _wrong(path, "applied_transform", tuple(TRANSFORMS), applied)
    found = fingerprint(content)
    if found != content["fingerprint"]:
        advice = "; it was changed after writing: write the split again"
        raise _wrong(path, "fingerprint", content["fingerprint"], found, advice)
    if content["layout"] not in OWN_LAYOUTS:
        raise _wrong(path, "layout", OWN_LAYOUTS, content["layout"])


def _wrong(path, field, expected, found, advice=""):
    return DatasetError.mismatch(path, field, expected, found, advice, field=field)


def _check_seed(content, path):
    # This project's keys must not be ignored: the seed benchmark's reader applies log(x+3).
    own = [key for key in _OwnRequired.__annotations__ if key in content and key != "vocab_sizes"]
    if own:
        problem = f"format_version: missing, although the file has {', '.join(own)}"
        raise DatasetError.of_path(path, problem, field="format_version")
    files.check_shape(content, path, _Seed)
    hotness = content.get("hotness_per_table", [])
    if any(ids != 1 for ids in hotness):
        advice = "; multi-hot data is not supported"
        raise _wrong(path, "hotness_per_table", "1 for every table", hotness, advice)


def build(
    layout: str,
    samples: int,
    vocab_sizes: Sequence[int],
    dense_transform: str,
    columns: Sequence[Mapping[str, Any]],
    attainable_auc: float | None = None,
    applied_transform: str | None = None,
) -> dict[str, Any]:
    """Returns the content of a metadata.json, fingerprint included.

    Args:
        layout: name of the layout.
        samples: number of samples.
        vocab_sizes: rows of each table.
        dense_transform: name of the transform that the reader applies.
        columns: dictionaries with kind, file, dtype, width and digest, in column order.
        attainable_auc: AUC of the generator's true probabilities, if known.
        applied_transform: name of the transform applied before storing, if known.
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
        # The keys that the seed benchmark's reader uses.
        types = {column["kind"]: column["dtype"] for column in columns}
        content["label_raw_type"] = types["label"]
        content["dense_raw_type"] = types["dense"]
        content["category_raw_type"] = types["categorical"]
        content["dense_log"] = TRANSFORMS[dense_transform] is not None
    if attainable_auc is not None:
        content["attainable_auc"] = attainable_auc
    content["fingerprint"] = fingerprint(content)
    return content
