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
from dataset.describe import describe_files
from dataset.errors import DatasetError

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
    """The file of a feature, as named in the spec, and all features in that file."""

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
    """Returns whether the feature spec next to a split's folder defines that split.

    The folder need not exist. If there is a spec, the answer for `train` and `test` is True: a spec
    without these mappings is an error.

    Raises:
        DatasetError: the feature spec cannot be read.
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
        raise _error(
            path,
            "source_spec",
            f"expected a mapping {mapping}, found {', '.join(spec['source_spec']) or 'none'}",
            expected=mapping,
            found=list(spec["source_spec"]),
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
        wrong = vocabularies.difference(vocab_sizes, sizes, "the given list", "the feature spec")
        raise DatasetError(
            f"{path}: vocabulary sizes: {wrong}",
            flag="vocab_sizes",
            path=path,
            expected=sizes,
            found=vocab_sizes,
        )

    def column(kind, names, first_table=0):
        source = sources.get(names[0])
        field = f"source_spec.{mapping}"
        if source is None:
            raise _error(
                path, field, f"expected a file for the feature {names[0]}, found none",
                expected=names[0],
            )  # fmt: skip
        if source.features != names:
            raise _error(
                path,
                field,
                f"{source.file}: expected exactly the features of the {kind} channel, in its "
                f"order: {_shown(names)}; found {_shown(source.features)}",
                expected=names,
                found=source.features,
            )
        dtypes = sorted({features[name]["dtype"] for name in names})
        if len(dtypes) > 1:
            raise _error(
                path,
                "feature_spec",
                f"expected one dtype in {source.file}, found {', '.join(dtypes)}",
                found=dtypes,
            )
        return (source.file, kind, dtypes[0], len(names), first_table, "none")

    columns = [column(LABEL, channels["label"]), column(DENSE, channels["numerical"])]
    columns += [column(CATEGORICAL, [n], t) for t, n in enumerate(channels["categorical"])]
    root = os.path.dirname(path)
    return describe_files(os.path.join(root, mapping), LAYOUT, columns, sizes, root=root)


def _read(path):
    spec = files.read_yaml(path, dict[str, Any])
    return _checked(path, None, spec, _Spec)


def _checked(path, field, value, shape):
    files.check_shape(value, path, shape, field)
    return value


def _error(path, field, problem, **fields):
    return DatasetError(f"{path}: {field}: {problem}", path=path, field=field, **fields)


def _check_channels(path, channels, features):
    for channel, names in channels.items():
        field = f"channel_spec.{channel}"
        for name in names:
            if name not in features:
                problem = f"expected names in feature_spec, found {name}"
                raise _error(path, field, problem, found=name)
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _error(path, field, f"expected each name once, found {twice} twice", found=twice)
    if len(channels["label"]) != 1:
        count = len(channels["label"])
        problem = f"expected one feature, found {count}"
        raise _error(path, "channel_spec.label", problem, expected=1, found=count)
    for channel in ("numerical", "categorical"):
        if not channels[channel]:
            problem = "expected at least one feature, found none"
            raise _error(path, f"channel_spec.{channel}", problem, found=0, bound=1)


def _sources(path, mapping, chunks):
    """Returns {feature: `_Source`} of a mapping's chunks."""
    sources = {}
    for index, chunk in enumerate(chunks):
        field = f"source_spec.{mapping}[{index}]"
        if chunk["type"] != _CHUNK_TYPE:
            raise _error(
                path,
                f"{field}.type",
                f"expected {_CHUNK_TYPE}, found {chunk['type']!r}; transcode the dataset first",
                expected=_CHUNK_TYPE,
                found=chunk["type"],
            )
        if len(chunk["files"]) != 1:
            count = len(chunk["files"])
            problem = f"expected one file, found {count}; join them in this order"
            raise _error(path, f"{field}.files", problem, expected=1, found=count)
        file = chunk["files"][0]
        # Checks the text only: a symbolic link in the folder may lead anywhere.
        inside = os.path.normpath(file)
        if not file or os.path.isabs(file) or inside.split(os.sep)[0] in (os.pardir, os.curdir):
            raise _error(
                path,
                f"{field}.files[0]",
                f"expected a path inside {os.path.dirname(path) or '.'}, found {file!r}",
                found=file,
            )
        for name in chunk["features"]:
            if name in sources:
                problem = f"expected each feature in one file, found {name} in two"
                raise _error(path, f"{field}.features", problem, found=name)
            sources[name] = _Source(inside, chunk["features"])
    return sources


def _cardinality(path, name, feature):
    field = f"feature_spec.{name}"
    if feature.get("hotness", 1) not in (None, 1):
        hotness = feature["hotness"]
        problem = f"expected 1, found {hotness!r:.40}; multi-hot features are not supported"
        raise _error(path, f"{field}.hotness", problem, expected=1, found=hotness)
    size = feature.get("cardinality")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= vocabularies.MAX_ROWS:
        raise _error(
            path,
            f"{field}.cardinality",
            f"expected an integer from 1 to {vocabularies.MAX_ROWS}, found "
            + ("nothing" if size is None else f"{size!r:.40}"),
            found=size,
            bound=vocabularies.MAX_ROWS,
        )
    return size


def _shown(names):
    return ", ".join(names[:4]) + (f", ... ({len(names)} in all)" if len(names) > 4 else "")
