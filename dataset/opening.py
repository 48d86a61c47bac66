"""Opens a dataset: recognises its layout, checks files, sizes and counts, describes it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dataset import (
    describe,
    feature_spec,
    files,
    layouts,
    metadata,
    stored_types,
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
    """Describes one split, after checking that its files are there and have the right sizes.

    What the label and dense values are stored as is checked against a sample of their bytes.

    Args:
        folder: the split's folder, or the file of the raw layout.
        layout: a name from `dataset.layouts.LAYOUTS`, or "auto" to recognise it.
        vocab_sizes: rows of each table, for data that does not carry them.
        train: description of the train split, from which a test split without metadata of its own
            takes what its files do not say; without it a folder ``train`` beside is looked at.
        declared: a `dataset.stored_types.Declared`, for data that does not say its types.

    Returns:
        A `DatasetDescription`.

    Raises:
        DatasetError: naming the file, what was expected and what was found.
    """
    folder = os.path.normpath(os.fspath(folder))
    if layout != "auto" and layout not in layouts.LAYOUTS:
        raise DatasetError(
            f"unknown data layout {layout!r}: expected auto, {', '.join(layouts.LAYOUTS)}"
        )
    # The files of a feature spec may be anywhere: no folder needs to have the mapping's name.
    there = files.exists(folder)
    in_spec = (not there or files.is_folder(folder)) and feature_spec.covers(folder)
    if not there and not in_spec:
        raise DatasetError(f"{folder}: no such file or folder")
    if vocab_sizes is not None:
        vocab_sizes = vocabularies.check_sizes(list(vocab_sizes), "the vocabulary sizes given")
    content = metadata.read(folder) if files.is_folder(folder) else None
    if content is not None and "format_version" in content:
        description = _open_own(folder, layout, vocab_sizes, content)
    else:
        if content is None and claim.is_unfinished(folder):
            # Its files may have their names already: they look like the seed benchmark's.
            raise DatasetError(
                f"{folder}: holds an unfinished split ({claim.MARKER}, no {metadata.FILE_NAME}): "
                "write it anew"
            )
        if layout == "auto":
            layout = feature_spec.LAYOUT if in_spec else layouts.recognise(folder)
        beside = os.path.join(os.path.dirname(folder), "train")
        if train is None and content is None and os.path.basename(folder) == "test":
            content = metadata.read(beside) if files.is_folder(beside) else None
        hints = layouts.Hints(vocab_sizes, content, train, declared)
        description = layouts.LAYOUTS[layout](folder, hints)
        if description.applied_transform is None and declared.applied_transform is None:
            trains = _trains_transform(description.layout, content, train)
            description = transforms.with_applied(description, trains)
    if not description.samples:
        raise DatasetError(f"{folder}: holds no samples")
    return _checked(description, declared)


def _trains_transform(layout, content, train):
    """Returns what the train split of a test split without metadata says of stored values."""
    if content is None:
        if train is None or train.layout != layout:
            return None
        return train.applied_transform
    return content.get("applied_transform") if content.get("layout") == layout else None


def _checked(description, declared):
    """Returns a description with what is declared of it, checked against a sample of the bytes."""
    for kind, column in (
        (LABEL, description.label_column),
        (DENSE, description.dense_column),
    ):
        if declared.dtype(kind) not in (None, column.dtype):
            raise DatasetError(
                f"{description.path}: --{kind}_type {declared.dtype(kind)}: the {kind} values of "
                f"this dataset are stored as {column.dtype}"
            )
    description = _with_declared(description, declared.dense_transform, declared.applied_transform)
    stored_types.check_stored_types(description, _origins(description), declared)
    return description


def _with_declared(description, transform, applied):
    if transform == "none":
        # What a layout takes logarithms of may be stored values, once it takes none.
        description = transforms.with_transform(description, transform)
        return transforms.with_applied(description, applied)
    description = transforms.with_applied(description, applied)
    return description if transform is None else transforms.with_transform(description, transform)


def _origins(description):
    """Returns, for LABEL and DENSE, the file that says their dtype, where one does."""
    if description.layout == "torchrec":
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
    """Describes train and test of a dataset and checks that they belong together.

    Args:
        data_dir: a folder with ``train`` and ``test``, or with ``train_data.bin`` and
            ``test_data.bin`` (raw), or with TorchRec's ``day_*_{dense,sparse,labels}.npy``, or
            with a ``feature_spec.yaml`` that says where its files are.
        layout: as in `open_split`.
        vocab_sizes: as in `open_split`.
        declared: as in `open_split`.

    Returns:
        (train, test), two `DatasetDescription`s.

    Raises:
        DatasetError: a split is missing or damaged, or the two disagree.
    """
    data_dir = os.path.normpath(os.fspath(data_dir))
    if not files.is_folder(data_dir):
        raise DatasetError(f"{data_dir}: no such folder")
    if layout in ("auto", "torchrec") and layouts.has_days(data_dir):
        splits = layouts.open_days(data_dir, vocab_sizes)
        train, test = (_checked(split, declared) for split in splits)
    else:
        train_path, test_path = _split_paths(data_dir)
        train = open_split(train_path, layout, vocab_sizes, declared=declared)
        test = open_split(test_path, layout, vocab_sizes, train=train, declared=declared)
    wrong = vocabularies.difference(train.vocab_sizes, test.vocab_sizes, "train", "test")
    if wrong is not None:
        raise DatasetError(f"{data_dir}: train and test differ in vocab_sizes: {wrong}")
    if train.dense_features != test.dense_features:
        raise DatasetError(
            f"{data_dir}: train and test differ in dense_features: {train.dense_features} in "
            f"train, {test.dense_features} in test"
        )
    transforms.check_same(train, test, data_dir)
    return train, test


def open_train(data_dir: str | os.PathLike, layout: str = "auto") -> DatasetDescription:
    """Describes the train split of a dataset, which needs no test split; as `open_dataset`."""
    data_dir = os.path.normpath(os.fspath(data_dir))
    if not files.is_folder(data_dir):
        raise DatasetError(f"{data_dir}: no such folder")
    if layout in ("auto", "torchrec") and layouts.has_days(data_dir):
        return open_dataset(data_dir, layout)[0]
    if not is_dataset(data_dir):
        raise _no_dataset(data_dir)
    raw = os.path.join(data_dir, layouts.RAW_FILES[0])
    folder = os.path.join(data_dir, "train")
    has_folder = files.exists(folder) or feature_spec.find(data_dir) is not None
    return open_split(folder if has_folder else raw, layout)


def is_dataset(folder: str) -> bool:
    """Returns whether a folder is a dataset, of two splits, rather than a split of one."""
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
                    raise DatasetError(f"{path}: missing: {data_dir} has no such split")
            return pair
    raise _no_dataset(data_dir)


def _no_dataset(data_dir):
    return DatasetError(
        f"{data_dir}: is not a dataset: expected folders train and test, or files "
        f"{' and '.join(layouts.RAW_FILES)}; found {layouts.listing(data_dir)}"
    )


def _open_own(folder, layout, vocab_sizes, content):
    where = os.path.join(folder, metadata.FILE_NAME)
    if layout not in ("auto", content["layout"]):
        raise DatasetError(f"{where}: layout expected {layout}, found {content['layout']}")
    if vocab_sizes is not None:
        wrong = vocabularies.difference(
            vocab_sizes, content["vocab_sizes"], "the list given", "the file"
        )
        if wrong is not None:
            raise DatasetError(f"{where}: vocabulary sizes given and stored differ: {wrong}")
    return describe.from_metadata(folder, content)
