"""Reads feature_spec.yaml of DeepLearningExamples: which files hold which features of a dataset.

The file defines the names and number of features, dtypes, cardinalities and paths. A dataset has
the mappings (splits) `train` and `test`; their files may be anywhere in the folder. Anything in the
file that this reader does not support is an error.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import msgspec

from dataset import files, vocabularies
from dataset.columns import CATEGORICAL, DENSE, LABEL, DatasetDescription
from dataset.describe import FileColumn, describe_files
from dataset.errors import DatasetError
from ops.bags import MAX_HOTNESS, Bags

FILE_NAME = "feature_spec.yaml"
LAYOUT = "deep_learning_examples"
#: The only supported type of chunk; the other type of DeepLearningExamples is "csv".
_CHUNK_TYPE = "split_binary"


class _Spec(msgspec.Struct, forbid_unknown_fields=True):
    feature_spec: dict[str, dict[str, Any]]
    source_spec: dict[str, list[dict[str, Any]]]
    channel_spec: dict[str, Any]
    metadata: Any = None


class _Feature(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    cardinality: Any = None
    hotness: Any = None
    # Parameter of DeepLearningExamples' generator of synthetic ids.
    alpha: Any = None


class _Chunk(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    features: list[str]
    files: list[str]


class _Channels(msgspec.Struct, forbid_unknown_fields=True):
    categorical: list[str]
    numerical: list[str]
    label: list[str]


class _Source(NamedTuple):
    file: str
    features: list[str]


def find(folder: str) -> str | None:
    """Returns the path of the feature spec in `folder`, or None."""
    path = os.path.join(folder, FILE_NAME)
    return path if files.exists(path) else None


def covers(split: str) -> bool:
    """Returns whether the feature spec next to a split's folder defines that split.

    The folder need not exist. With a spec, the answer for `train` and `test` is always True.
    """
    path = find(os.path.dirname(split))
    name = os.path.basename(split)
    return path is not None and (name in ("train", "test") or name in _read(path)["source_spec"])


def describe(path: str, mapping: str, vocab_sizes: list | None = None) -> DatasetDescription:
    """Describes one mapping of a feature spec.

    Args:
        path: the feature_spec.yaml.
        mapping: name of the mapping in `source_spec`, such as "train".
        vocab_sizes: rows of each table as given by the user; they must equal the spec's.

    Raises:
        DatasetError: the spec or a file is invalid, or the vocabulary sizes differ.
    """
    spec = _read(path)
    features = {
        name: _checked(path, f"feature_spec.{name}", feature, _Feature)
        for name, feature in spec["feature_spec"].items()
    }
    channels = _checked(path, "channel_spec", spec["channel_spec"], _Channels)
    if mapping not in spec["source_spec"]:
        raise _error(path, "source_spec", f"a mapping {mapping}", list(spec["source_spec"]))
    chunks = [
        _checked(path, f"source_spec.{mapping}[{index}]", chunk, _Chunk)
        for index, chunk in enumerate(spec["source_spec"][mapping])
    ]
    _check_channels(path, channels, features)
    sources = _sources(path, mapping, chunks)
    sizes = [_cardinality(path, name, features[name]) for name in channels["categorical"]]
    vocabularies.check_sizes(sizes, path)
    if vocab_sizes is not None and vocab_sizes != sizes:
        wrong = vocabularies.difference(vocab_sizes, sizes, "the given list", "the feature spec")
        problem = f"vocabulary sizes: {wrong}"
        raise DatasetError.of_path(path, problem, flag="vocab_sizes", found=vocab_sizes)

    def column(kind, names, first_table=0):
        source = sources.get(names[0])
        field = f"source_spec.{mapping}"
        if source is None:
            raise _error(path, field, f"a file for the feature {names[0]}", None)
        if source.features != names:
            expected = f"in {source.file}, the {kind} channel in its order, {names!s:.200}"
            raise _error(path, field, expected, source.features)
        dtypes = sorted({features[name]["dtype"] for name in names})
        if len(dtypes) > 1:
            raise _error(path, "feature_spec", f"one dtype in {source.file}", dtypes)
        return FileColumn(source.file, kind, dtypes[0], len(names), first_table)

    def ids(table, name):
        bags = Bags.of([_hotness(path, name, features[name])])
        return column(CATEGORICAL, [name], table)._replace(width=bags.slots, bags=bags)

    columns = [column(LABEL, channels["label"]), column(DENSE, channels["numerical"])]
    columns += [ids(table, name) for table, name in enumerate(channels["categorical"])]
    root = os.path.dirname(path)
    return describe_files(os.path.join(root, mapping), LAYOUT, columns, sizes, root=root)


def _read(path):
    spec = files.read_yaml(path, dict[str, Any])
    return _checked(path, None, spec, _Spec)


def _checked(path, field, value, shape):
    files.check_shape(value, path, shape, field)
    return value


def _error(path, field, expected, found, advice=""):
    return DatasetError.mismatch(path, field, expected, found, advice, field=field)


def _check_channels(path, channels, features):
    for channel, names in channels.items():
        field = f"channel_spec.{channel}"
        for name in names:
            if name not in features:
                raise _error(path, field, "names in feature_spec", name)
            if names.count(name) > 1:
                raise _error(path, field, "each name once", name, " twice")
    if len(channels["label"]) != 1:
        raise _error(path, "channel_spec.label", "one feature", len(channels["label"]))
    for channel in ("numerical", "categorical"):
        if not channels[channel]:
            raise _error(path, f"channel_spec.{channel}", "at least one feature", 0)


def _sources(path, mapping, chunks):
    """Returns {feature: `_Source`} of a mapping's chunks."""
    sources = {}
    for index, chunk in enumerate(chunks):
        field = f"source_spec.{mapping}[{index}]"
        if chunk["type"] != _CHUNK_TYPE:
            advice = "; transcode the dataset first"
            raise _error(path, f"{field}.type", _CHUNK_TYPE, chunk["type"], advice)
        if len(chunk["files"]) != 1:
            advice = "; join them in this order"
            raise _error(path, f"{field}.files", "one file", len(chunk["files"]), advice)
        file = chunk["files"][0]
        # Checks the text only: a symbolic link in the folder may lead anywhere.
        inside = os.path.normpath(file)
        if not file or os.path.isabs(file) or inside.split(os.sep)[0] in (os.pardir, os.curdir):
            expected = f"a path inside {os.path.dirname(path) or '.'}"
            raise _error(path, f"{field}.files[0]", expected, file)
        for name in chunk["features"]:
            if name in sources:
                expected = "each feature in one file"
                raise _error(path, f"{field}.features", expected, name, " in two")
            sources[name] = _Source(inside, chunk["features"])
    return sources


def _cardinality(path, name, feature):
    size = feature.get("cardinality")
    return _integer(path, f"feature_spec.{name}.cardinality", size, vocabularies.MAX_ROWS)


def _hotness(path, name, feature):
    ids = feature.get("hotness")
    return 1 if ids is None else _integer(path, f"feature_spec.{name}.hotness", ids, MAX_HOTNESS)


def _integer(path, field, value, largest):
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= largest:
        raise _error(path, field, f"an integer from 1 to {largest}", value)
    return value
