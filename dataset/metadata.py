"""metadata.json describes a split. It is written last: a folder without it is incomplete."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Optional, TypedDict

import msgspec

from dataset import files, vocabularies
from dataset.columns import CATEGORICAL, TRANSFORMS
from dataset.errors import DatasetError
from dataset.hotness import Hotness, Pooling, make_bags
from ops.bags import Bags
from storage.digests import sha256_of

FILE_NAME = "metadata.json"
FORMAT_VERSION = 1
#: Version of splits with several ids per feature, which readers of version 1 must refuse.
MULTI_HOT_VERSION = 2
#: Layouts that this project writes with a metadata.json.
OWN_LAYOUTS = ("three_file", "per_table")
#: Keys of a column with several ids per feature.
_BAG_KEYS = frozenset(("hotness", "pooling", "offsets"))


#: Not `float | None`, which Python 3.9 does not evaluate.
_Auc = Optional[float]
_Transform = Optional[str]


class _Boundaries(TypedDict):
    file: str
    digest: str


class _ColumnRequired(TypedDict):
    kind: Literal["label", "dense", "categorical"]
    file: str
    dtype: str
    width: Annotated[int, msgspec.Meta(ge=1)]
    digest: str


class _Column(_ColumnRequired, total=False):
    # Of the features in the column; absent: one id each, summed.
    hotness: Hotness
    pooling: Pooling
    # Where the lists of a variable feature end; its hotness is the length of the longest one.
    offsets: _Boundaries


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
    hotness_per_table: Hotness
    # This project's addition, for raw files.
    pooling_per_table: Pooling


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
    benchmark's, with only `vocab_sizes`, the raw types, `dense_log` and `hotness_per_table`.

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
    version = content["format_version"]
    if isinstance(version, bool) or version not in (FORMAT_VERSION, MULTI_HOT_VERSION):
        expected = f"{FORMAT_VERSION} or {MULTI_HOT_VERSION}"
        raise _wrong(path, "format_version", expected, version)
    files.check_shape(content, path, _Own)
    for index, column in enumerate(content["columns"]):
        _check_file(path, f"columns[{index}].file", column["file"])
        if "offsets" in column:
            _check_file(path, f"columns[{index}].offsets.file", column["offsets"]["file"])
        if not _BAG_KEYS.isdisjoint(column):
            _check_bags(path, f"columns[{index}]", column, version)
    applied = content.get("applied_transform")
    if applied is not None and applied not in tuple(TRANSFORMS):
        raise _wrong(path, "applied_transform", tuple(TRANSFORMS), applied)
    found = fingerprint(content)
    if found != content["fingerprint"]:
        advice = "; it was changed after writing: write the split again"
        raise _wrong(path, "fingerprint", content["fingerprint"], found, advice)
    if content["layout"] not in OWN_LAYOUTS:
        raise _wrong(path, "layout", OWN_LAYOUTS, content["layout"])


def _check_file(path, field, name):
    if os.path.basename(name) != name or name in ("", os.curdir, os.pardir):
        raise _wrong(path, field, "a plain file name", name)


def _check_bags(path, field, column, version):
    if version != MULTI_HOT_VERSION:
        advice = f"; {field} has several ids per feature"
        raise _wrong(path, "format_version", MULTI_HOT_VERSION, version, advice)
    if column["kind"] != CATEGORICAL:
        raise _wrong(path, f"{field}.hotness", "none in a column of this kind", column["kind"])
    bags, width = column_bags(column, path, field), column["width"]
    if "offsets" in column:
        if (bags.features, width) != (1, 1):
            found = f"{bags.features} of width {width}"
            raise _wrong(path, f"{field}.offsets", "one feature of width 1", found)
    elif bags.slots != width:
        expected = f"{width} ids per sample, the column's width"
        raise _wrong(path, f"{field}.hotness", expected, bags.slots)


def _wrong(path, field, expected, found, advice=""):
    return DatasetError.mismatch(path, field, expected, found, advice, field=field)


def _check_seed(content, path):
    # This project's keys must not be ignored: the seed benchmark's reader applies log(x+3).
    own = [key for key in _OwnRequired.__annotations__ if key in content and key != "vocab_sizes"]
    if own:
        problem = f"format_version: missing, although the file has {', '.join(own)}"
        raise DatasetError.of_path(path, problem, field="format_version")
    files.check_shape(content, path, _Seed)
    bags(content, path)


def describes_raw(content: Any) -> bool:
    """Returns whether the content of a metadata.json describes raw records.

    It then has the seed benchmark's keys `vocab_sizes` and `hotness_per_table`.
    """
    if not isinstance(content, dict):
        return False
    return "hotness_per_table" in content and "format_version" not in content


def column_bags(column: Mapping[str, Any], where: str, field: str) -> Bags:
    """Returns the bags of a categorical column's entry.

    Args:
        column: the entry.
        where: the file, for errors.
        field: the entry's field in it, likewise.

    Raises:
        DatasetError: the lists differ in length.
    """
    hotness, pooling = column.get("hotness"), column.get("pooling")
    features = column["width"] if hotness is None else len(hotness)
    fixed = make_bags(hotness, pooling, features, where, field=field)
    if "offsets" not in column:
        return fixed
    return Bags(fixed.hotness, fixed.pooling, (True,) * features)


def bags(content: Mapping[str, Any], where: str) -> Bags:
    """Returns the slots of all features of a metadata dictionary.

    Raises:
        DatasetError: the lists of hotness and pooling, in the file `where`, differ in length.
    """
    if "format_version" not in content:
        hotness, pooling = content.get("hotness_per_table"), content.get("pooling_per_table")
        field = "hotness_per_table" if pooling is None else "pooling_per_table"
        return make_bags(hotness, pooling, len(content["vocab_sizes"]), where, field=field)
    return Bags.joined(
        column_bags(column, where, f"columns[{index}]")
        for index, column in enumerate(content["columns"])
        if column["kind"] == CATEGORICAL
    )


def records_pooling(content: Mapping[str, Any]) -> bool:
    """Returns whether a metadata dictionary records how the vectors of several ids are pooled."""
    return "format_version" in content or "pooling_per_table" in content


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
        columns: dictionaries with kind, file, dtype, width and digest, in column order; those with
            several ids per feature also have hotness and pooling, and one with a variable feature
            has offsets.
        attainable_auc: AUC of the generator's true probabilities, if known.
        applied_transform: name of the transform applied before storing, if known.
    """
    multi_hot = any(not _BAG_KEYS.isdisjoint(column) for column in columns)
    content = {
        "format_version": MULTI_HOT_VERSION if multi_hot else FORMAT_VERSION,
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
        if multi_hot:
            content["hotness_per_table"] = list(bags(content, layout).hotness)
    if attainable_auc is not None:
        content["attainable_auc"] = attainable_auc
    content["fingerprint"] = fingerprint(content)
    return content
