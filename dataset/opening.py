"""Opens a dataset: recognises its layout, checks files, sizes and counts, describes it."""

import os

from dataset import describe, layouts, metadata, transforms, vocabularies
from dataset.errors import DatasetError


def open_split(folder, layout="auto", vocab_sizes=None, *, train=None, applied_transform=None):
    """Describes one split, after checking that its files are there and have the right sizes.

    Args:
        folder: the split's folder, or the file of the raw layout.
        layout: a name from `dataset.layouts.LAYOUTS`, or "auto" to recognise it.
        vocab_sizes: rows of each table, for data that does not carry them.
        train: description of the train split, from which a test split without metadata of its own
            takes what its files do not say; without it a folder ``train`` beside is looked at.
        applied_transform: what the stored dense values have been through, a name from
            `dataset.columns.TRANSFORMS`, for data that does not say.

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
    if not os.path.exists(folder):
        raise DatasetError(f"{folder}: no such file or folder")
    if vocab_sizes is not None:
        vocab_sizes = metadata.check_vocab_sizes(list(vocab_sizes), "the vocabulary sizes given")
    content = metadata.read(folder) if os.path.isdir(folder) else None
    if content is not None and "format_version" in content:
        own = _open_own(folder, layout, vocab_sizes, content)
        return transforms.with_applied(own, applied_transform)
    if layout == "auto":
        layout = layouts.recognise(folder)
    beside = os.path.join(os.path.dirname(folder), "train")
    if train is None and content is None and os.path.basename(folder) == "test":
        content = metadata.read(beside) if os.path.isdir(beside) else None
    hints = layouts.Hints(vocab_sizes=vocab_sizes, metadata=content, train=train)
    description = layouts.LAYOUTS[layout](folder, hints)
    if not description.samples:
        raise DatasetError(f"{folder}: holds no samples")
    if description.applied_transform is None and applied_transform is None:
        applied_transform = _trains_transform(description.layout, content, train)
    return transforms.with_applied(description, applied_transform)


def _trains_transform(layout, content, train):
    """Returns what the train split of a test split without metadata says of stored values."""
    if content is None:
        same = train is not None and train.layout == layout
        return train.applied_transform if same else None
    return content.get("applied_transform") if content.get("layout") == layout else None


def open_dataset(data_dir, layout="auto", vocab_sizes=None, *, applied_transform=None):
    """Describes train and test of a dataset and checks that they belong together.

    Args:
        data_dir: a folder with ``train`` and ``test``, or with ``train_data.bin`` and
            ``test_data.bin`` (raw), or with TorchRec's ``day_*_{dense,sparse,labels}.npy``.
        layout: as in `open_split`.
        vocab_sizes: as in `open_split`.
        applied_transform: as in `open_split`.

    Returns:
        (train, test), two `DatasetDescription`s.

    Raises:
        DatasetError: a split is missing or damaged, or the two disagree.
    """
    data_dir = os.path.normpath(os.fspath(data_dir))
    if not os.path.isdir(data_dir):
        raise DatasetError(f"{data_dir}: no such folder")
    if layout in ("auto", "torchrec") and layouts.has_days(data_dir):
        days = layouts.open_days(data_dir, vocab_sizes)
        train, test = (transforms.with_applied(split, applied_transform) for split in days)
    else:
        train_path, test_path = _split_paths(data_dir)
        options = {"applied_transform": applied_transform}
        train = open_split(train_path, layout, vocab_sizes, **options)
        test = open_split(test_path, layout, vocab_sizes, train=train, **options)
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


def _split_paths(data_dir):
    folders = [os.path.join(data_dir, name) for name in ("train", "test")]
    files = [os.path.join(data_dir, name) for name in layouts.RAW_FILES]
    for pair in (folders, files):
        if os.path.exists(pair[0]):
            for path in pair:
                if not os.path.exists(path):
                    raise DatasetError(f"{path}: missing: {data_dir} has no such split")
            return pair
    raise DatasetError(
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
