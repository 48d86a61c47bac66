"""Opens a dataset: recognises its layout, checks files, sizes and counts, and describes it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dataset import (
    describe,
    feature_spec,
    files,
    hotness,
    layouts,
    metadata,
    stored_types,
    torchrec,
    transforms,
    vocabularies,
)
from dataset.columns import DENSE, LABEL, DatasetDescription
from dataset.errors import DatasetError
from storage import claim

_NOTHING = stored_types.Declared()


def open_split(
    folder: str | os.PathLike,
    layout: str = "auto",
    vocab_sizes: Sequence[int] | None = None,
    *,
    train: DatasetDescription | None = None,
    declared: stored_types.Declared = _NOTHING,
) -> DatasetDescription:
    """Describes one split; checks its files' sizes and, with a sample, the types of their values.

    Args:
        folder: the split's folder, or the file of the raw layout.
        layout: a name from `dataset.layouts.LAYOUTS`, or "auto" to recognise it.
        vocab_sizes: rows of each table, for data that does not record them.
        train: description of the train split, for a test split without metadata; default: the
            folder ``train`` next to it, if it exists.
        declared: types and transforms, for data that does not record them.

    Raises:
        DatasetError: the split is missing, damaged or inconsistent.
    """
    folder = os.path.normpath(os.fspath(folder))
    if layout != "auto" and layout not in layouts.LAYOUTS:
        raise DatasetError.mismatch(None, "data layout", ("auto", *layouts.LAYOUTS), layout)
    # The files of a feature spec may be anywhere: no folder needs to have the mapping's name.
    exists = files.exists(folder)
    in_spec = (not exists or files.is_folder(folder)) and feature_spec.covers(folder)
    if not exists and not in_spec:
        raise DatasetError(f"{folder}: no such file or folder", path=folder)
    if vocab_sizes is not None:
        vocab_sizes = vocabularies.check_sizes(list(vocab_sizes), "the given list")
    content = metadata.read(folder) if files.is_folder(folder) else None
    if content is not None and "format_version" in content:
        description = _open_own(folder, layout, vocab_sizes, content)
        hotness.check_recorded_pooling(folder, description.bags, declared.pooling)
    else:
        if content is None and claim.is_unfinished(folder):
            # Some files may have their final names: they look like the seed benchmark's.
            what, advice = "incomplete split", "; write the split again"
            raise DatasetError.mismatch(folder, what, metadata.FILE_NAME, claim.MARKER, advice)
        if layout == "auto":
            layout = feature_spec.LAYOUT if in_spec else layouts.recognise(folder)
        if train is None and content is None and os.path.basename(folder) == "test":
            other = os.path.join(os.path.dirname(folder), "train")
            content = metadata.read(other) if files.is_folder(other) else None
        hints = layouts.Hints(vocab_sizes, content, train, declared)
        description = layouts.LAYOUTS[layout](folder, hints)
        if description.applied_transform is None and declared.applied_transform is None:
            applied = _applied_to_train(description.layout, content, train)
            description = transforms.with_applied(description, applied)
    if not description.samples:
        raise DatasetError.of_path(folder, "samples: expected at least 1, found 0", bound=1)
    return _checked(description, declared)


def _applied_to_train(layout, content, train):
    """Returns the applied transform that the train split records, for a test split without one."""
    if content is None:
        if train is None or train.layout != layout:
            return None
        return train.applied_transform
    return content.get("applied_transform") if content.get("layout") == layout else None


def _checked(description, declared):
    """Returns a description with the declared facts, checked against a sample of the bytes."""
    for kind, column in (
        (LABEL, description.label_column),
        (DENSE, description.dense_column),
    ):
        if declared.dtype(kind) not in (None, column.dtype):
            flag, found = f"{kind}_type", declared.dtype(kind)
            what = f"--{flag} contradicts the stored type"
            raise DatasetError.mismatch(description.path, what, column.dtype, found, flag=flag)
    description = _with_declared(description, declared.dense_transform, declared.applied_transform)
    bags = hotness.check_declared(
        description.path, description.bags, declared.hotness, declared.pooling
    )
    description = description.with_bags(bags)
    stored_types.check_stored_types(description, _origins(description), declared)
    return description


def _with_declared(description, transform, applied):
    if transform == "none":
        # First: without the layout's logarithm, the values may already be transformed.
        description = transforms.with_transform(description, transform)
        return transforms.with_applied(description, applied)
    description = transforms.with_applied(description, applied)
    return description if transform is None else transforms.with_transform(description, transform)


def _origins(description):
    """Returns the places that record the dtypes of LABEL and DENSE, where they exist."""
    if description.layout in torchrec.LAYOUTS:
        return {
            LABEL: f"the header of {description.label_column.segments[0].path}",
            DENSE: f"the header of {description.dense_column.segments[0].path}",
        }
    if description.layout == feature_spec.LAYOUT:
        spec = feature_spec.find(os.path.dirname(description.path))
        return {} if spec is None else {LABEL: spec, DENSE: spec}
    if description.layout not in ("three_file", "per_table"):
        return {}
    for folder in (description.path, os.path.join(os.path.dirname(description.path), "train")):
        content = metadata.read(folder) if files.is_folder(folder) else None
        where = os.path.join(folder, metadata.FILE_NAME)
        if content is None:
            continue
        if "format_version" in content:
            return {LABEL: where, DENSE: where}
        keys = {LABEL: "label_raw_type", DENSE: "dense_raw_type"}
        return {kind: f"{where}: {key}" for kind, key in keys.items() if key in content}
    return {}


def open_dataset(
    data_dir: str | os.PathLike,
    layout: str = "auto",
    vocab_sizes: Sequence[int] | None = None,
    *,
    declared: stored_types.Declared = _NOTHING,
) -> tuple[DatasetDescription, DatasetDescription]:
    """Describes the train and test splits of a dataset and checks that they match.

    Args:
        data_dir: a folder with ``train`` and ``test``, with ``train_data.bin`` and
            ``test_data.bin`` (raw), with TorchRec's ``day_*`` files, or with a
            ``feature_spec.yaml``.
        layout: see `open_split`.
        vocab_sizes: see `open_split`.
        declared: see `open_split`.

    Returns:
        The descriptions (train, test).

    Raises:
        DatasetError: a split is missing or damaged, or the two do not match.
    """
    data_dir = os.path.normpath(os.fspath(data_dir))
    if not files.is_folder(data_dir):
        raise DatasetError(f"{data_dir}: no such folder", path=data_dir)
    if layout in ("auto", *torchrec.LAYOUTS) and layouts.has_days(data_dir):
        sizes = None if vocab_sizes is None else list(vocab_sizes)
        days = torchrec.recognise(data_dir) if layout == "auto" else layout
        splits = torchrec.open_days(data_dir, layouts.Hints(sizes), days)
        train, test = (_checked(split, declared) for split in splits)
    else:
        train_path, test_path = _split_paths(data_dir)
        train = open_split(train_path, layout, vocab_sizes, declared=declared)
        test = open_split(test_path, layout, vocab_sizes, train=train, declared=declared)
    wrong = vocabularies.difference(train.vocab_sizes, test.vocab_sizes, "train", "test")
    if wrong is not None:
        what = f"train and test differ in vocab_sizes: {wrong}"
        sizes = {"expected": train.vocab_sizes, "found": test.vocab_sizes}
        raise DatasetError.of_path(data_dir, what, **sizes)
    if train.dense_features != test.dense_features:
        what = "train and test differ in dense_features"
        raise DatasetError.mismatch(data_dir, what, train.dense_features, test.dense_features)
    hotness.of_both(train.bags, test.bags, data_dir)
    transforms.check_same(train, test, data_dir)
    return train, test


def open_train(data_dir: str | os.PathLike, layout: str = "auto") -> DatasetDescription:
    """Describes the train split of a dataset, which may lack a test split; see `open_dataset`."""
    data_dir = os.path.normpath(os.fspath(data_dir))
    if not files.is_folder(data_dir):
        raise DatasetError(f"{data_dir}: no such folder", path=data_dir)
    if layout in ("auto", *torchrec.LAYOUTS) and layouts.has_days(data_dir):
        return open_dataset(data_dir, layout)[0]
    if not is_dataset(data_dir):
        raise _no_dataset(data_dir)
    raw = os.path.join(data_dir, layouts.RAW_FILES[0])
    folder = os.path.join(data_dir, "train")
    has_folder = files.exists(folder) or feature_spec.find(data_dir) is not None
    return open_split(folder if has_folder else raw, layout)


def is_dataset(folder: str) -> bool:
    """Returns whether a folder is a dataset with two splits, and not a single split."""
    if feature_spec.find(folder) is not None:
        return True
    return any(files.exists(os.path.join(folder, name)) for name in ("train", layouts.RAW_FILES[0]))


def _split_paths(data_dir):
    folders = [os.path.join(data_dir, name) for name in ("train", "test")]
    raw_files = [os.path.join(data_dir, name) for name in layouts.RAW_FILES]
    if feature_spec.find(data_dir) is not None:
        return folders
    for pair in (folders, raw_files):
        if files.exists(pair[0]):
            for path in pair:
                if not files.exists(path):
                    raise DatasetError(f"{path}: missing split of {data_dir}", path=path)
            return pair
    raise _no_dataset(data_dir)


def _no_dataset(data_dir):
    expected = f"folders train and test, or files {' and '.join(layouts.RAW_FILES)}"
    return DatasetError.mismatch(data_dir, "not a dataset", expected, layouts.listing(data_dir))


def _open_own(folder, layout, vocab_sizes, content):
    where = os.path.join(folder, metadata.FILE_NAME)
    if layout not in ("auto", content["layout"]):
        raise DatasetError.mismatch(where, "layout", layout, content["layout"], field="layout")
    if vocab_sizes is not None:
        wrong = vocabularies.difference(
            vocab_sizes, content["vocab_sizes"], "the given list", "the file"
        )
        if wrong is not None:
            raise DatasetError.of_path(where, f"vocabulary sizes: {wrong}", flag="vocab_sizes")
    return describe.from_metadata(folder, content)
