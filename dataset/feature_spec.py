"""feature_spec.yaml of DeepLearningExamples: which files hold which features of a dataset.

The file is the truth: names and number of features, dtypes, cardinalities and paths are its own. A
dataset has the mappings (splits) `train` and `test`; their files may be anywhere in the folder.
What the file says and this reader does not read is an error, never ignored.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import msgspec

from dataset import files, vocabularies
from dataset.columns import CATEGORICAL, DENSE, LABEL, DatasetDescription
from dataset.describe import describe_files
from dataset.errors import DatasetError

FILE_NAME = "feature_spec.yaml"
LAYOUT = "deep_learning_examples"
#: The only type of chunk that is read; DeepLearningExamples' other one is text, "csv".
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
    # Of the generator of synthetic data: how ids are distributed.
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
    """Where a feature is: a file, as named in the spec, and all features in that file."""

    file: str
    features: list[str]


def find(folder: str) -> str | None:
    """Returns the path of the feature spec in `folder`, or None.

    Raises:
        DatasetError: the folder cannot be read.
    """
    path = os.path.join(folder, FILE_NAME)
    return path if files.exists(path) else None


def covers(split: str) -> bool:
    """Returns whether a split's folder, which need not exist, is a mapping of the spec beside it.

    `train` and `test` always are where there is a spec: one that has no such mapping is wrong.

    Raises:
        DatasetError: the feature spec cannot be read.
    """
    path = find(os.path.dirname(split))
    name = os.path.basename(split)
    return path is not None and (name in ("train", "test") or name in _read(path)["source_spec"])


def describe(path: str, mapping: str, vocab_sizes: list | None = None) -> DatasetDescription:
    """Describes one mapping of a feature spec.

    Args:
        path: of the feature_spec.yaml.
        mapping: its name in `source_spec`, such as "train".
        vocab_sizes: rows of each table, where the user gave them: they must be the spec's.

    Raises:
        DatasetError: naming the spec's field, or the file, what was expected and what was found.
    """
    spec = _read(path)
    features = {
        name: _checked(path, f"feature_spec.{name}", feature, _Feature)
        for name, feature in spec["feature_spec"].items()
    }
    channels = _checked(path, "channel_spec", spec["channel_spec"], _Channels)
    if mapping not in spec["source_spec"]:
        raise DatasetError(
            f"{path}: source_spec: expected a mapping {mapping}, found "
            f"{', '.join(spec['source_spec']) or 'none'}"
        )
    chunks = [
        _checked(path, f"source_spec.{mapping}[{index}]", chunk, _Chunk)
        for index, chunk in enumerate(spec["source_spec"][mapping])
    ]
    _check_channels(path, channels, features)
    sources = _sources(path, mapping, chunks)
    sizes = [_cardinality(path, name, features[name]) for name in channels["categorical"]]
    vocabularies.check_sizes(sizes, path)
    if vocab_sizes is not None and vocab_sizes != sizes:
        raise DatasetError(
            f"{path}: vocabulary sizes given and those of the feature spec differ: expected "
            f"{sizes}, found {vocab_sizes}"
        )

    def column(kind, names, first_table=0):
        source = sources.get(names[0])
        where = f"{path}: source_spec.{mapping}"
        if source is None:
            raise DatasetError(f"{where}: the feature {names[0]} is in no file")
        if source.features != names:
            raise DatasetError(
                f"{where}: {source.file}: expected it to hold {_shown(names)} of the {kind} "
                f"channel and nothing else, in this order, found {_shown(source.features)}"
            )
        dtypes = sorted({features[name]["dtype"] for name in names})
        if len(dtypes) > 1:
            raise DatasetError(
                f"{path}: feature_spec: expected one dtype in {source.file}, found "
                f"{', '.join(dtypes)}"
            )
        return (source.file, kind, dtypes[0], len(names), first_table, "none")

    columns = [column(LABEL, channels["label"]), column(DENSE, channels["numerical"])]
    columns += [column(CATEGORICAL, [n], t) for t, n in enumerate(channels["categorical"])]
    root = os.path.dirname(path)
    return describe_files(os.path.join(root, mapping), LAYOUT, columns, sizes, root=root)


def _read(path):
    spec = files.read_yaml(path, dict[str, Any])
    return _checked(path, "", spec, _Spec)


def _checked(path, field, value, shape):
    files.check_shape(value, f"{path}: {field}" if field else path, shape)
    return value


def _check_channels(path, channels, features):
    for channel, names in channels.items():
        for name in names:
            if name not in features:
                raise DatasetError(f"{path}: channel_spec.{channel}: {name} is not in feature_spec")
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DatasetError(f"{path}: channel_spec.{channel}: {twice} occurs twice")
    if len(channels["label"]) != 1:
        raise DatasetError(
            f"{path}: channel_spec.label: expected one feature, found {len(channels['label'])}"
        )
    for channel in ("numerical", "categorical"):
        if not channels[channel]:
            raise DatasetError(
                f"{path}: channel_spec.{channel}: expected at least one feature, found none: a "
                "DLRM has numerical and categorical inputs"
            )


def _sources(path, mapping, chunks):
    """Returns {feature: `_Source`} of a mapping's chunks."""
    sources = {}
    for index, chunk in enumerate(chunks):
        where = f"{path}: source_spec.{mapping}[{index}]"
        if chunk["type"] != _CHUNK_TYPE:
            raise DatasetError(
                f"{where}: type: expected {_CHUNK_TYPE}, found {chunk['type']!r}: transcode the "
                "dataset first"
            )
        if len(chunk["files"]) != 1:
            raise DatasetError(
                f"{where}: files: expected one file, found {len(chunk['files'])}: join them, in "
                "this order"
            )
        file = chunk["files"][0]
        # As text: a symbolic link in the folder may lead anywhere.
        inside = os.path.normpath(file)
        if not file or os.path.isabs(file) or inside.split(os.sep)[0] in (os.pardir, os.curdir):
            raise DatasetError(
                f"{where}: files[0]: expected a path inside {os.path.dirname(path) or '.'}, found "
                f"{file!r}"
            )
        for name in chunk["features"]:
            if name in sources:
                raise DatasetError(f"{where}: features: {name} is in another file already")
            sources[name] = _Source(inside, chunk["features"])
    return sources


def _cardinality(path, name, feature):
    where = f"{path}: feature_spec.{name}"
    if feature.get("hotness", 1) not in (None, 1):
        raise DatasetError(
            f"{where}: hotness: expected 1, found {feature['hotness']!r:.40}: multi-hot features "
            "are not supported"
        )
    size = feature.get("cardinality")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= vocabularies.MAX_ROWS:
        raise DatasetError(
            f"{where}: cardinality: expected an integer from 1 to {vocabularies.MAX_ROWS}, found "
            + ("nothing" if size is None else f"{size!r:.40}")
        )
    return size


def _shown(names):
    return ", ".join(names[:4]) + (f", ... ({len(names)} in all)" if len(names) > 4 else "")
