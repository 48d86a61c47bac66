"""Opens a dataset: recognises its layout, checks files, sizes and counts, describes it."""

import os

from dataset import describe, layouts, metadata
from dataset.errors import DatasetError
from storage import claim


def open_split(folder, layout="auto", vocab_sizes=None, *, train=None):
    """Describes one split, after checking that its files are there and have the right sizes.

    Args:
        folder: the split's folder, or the file of the raw layout.
        layout: a name from `dataset.layouts.LAYOUTS`, or "auto" to recognise it.
        vocab_sizes: rows of each table, for data that does not carry them.
        train: description of the train split, from which a test split without metadata of its own
            takes what its files do not say; without it a folder ``train`` beside is looked at.

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
        return _open_own(folder, layout, vocab_sizes, content)
    if content is None and claim.is_unfinished(folder):
        # Its files may have their names already: they look like the seed benchmark's.
        raise DatasetError(
            f"{folder}: holds an unfinished split ({claim.MARKER}, no {metadata.FILE_NAME}): write "
            "it anew"
        )
    if layout == "auto":
        layout = layouts.recognise(folder)
    beside = os.path.join(os.path.dirname(folder), "train")
    if train is None and content is None and os.path.basename(folder) == "test":
        content = metadata.read(beside) if os.path.isdir(beside) else None
    hints = layouts.Hints(vocab_sizes=vocab_sizes, metadata=content, train=train)
    description = layouts.LAYOUTS[layout](folder, hints)
    if not description.samples:
        raise DatasetError(f"{folder}: holds no samples")
    return description


def open_dataset(data_dir, layout="auto", vocab_sizes=None):
    """Describes train and test of a dataset and checks that they belong together.

    Args:
        data_dir: a folder with ``train`` and ``test``, or with ``train_data.bin`` and
            ``test_data.bin`` (raw), or with TorchRec's ``day_*_{dense,sparse,labels}.npy``.
        layout: as in `open_split`.
        vocab_sizes: as in `open_split`.

    Returns:
        (train, test), two `DatasetDescription`s.

    Raises:
        DatasetError: a split is missing or damaged, or the two disagree.
    """
    data_dir = os.path.normpath(os.fspath(data_dir))
    if not os.path.isdir(data_dir):
        raise DatasetError(f"{data_dir}: no such folder")
    if layout in ("auto", "torchrec") and layouts.has_days(data_dir):
        train, test = layouts.open_days(data_dir, vocab_sizes)
    else:
        train_path, test_path = _split_paths(data_dir)
        train = open_split(train_path, layout, vocab_sizes)
        test = open_split(test_path, layout, vocab_sizes, train=train)
    for what in ("vocab_sizes", "dense_features", "dense_transform"):
        ours, theirs = getattr(train, what), getattr(test, what)
        if ours != theirs:
            raise DatasetError(
                f"{data_dir}: train and test differ in {what}: {_difference(ours, theirs)}"
            )
    return train, test


def _difference(ours, theirs):
    if isinstance(ours, list) and len(ours) == len(theirs):
        table = next(i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1])
        return f"table {table} has {ours[table]} rows in train, {theirs[table]} in test"
    if isinstance(ours, list):
        return f"{len(ours)} tables in train, {len(theirs)} in test"
    return f"{ours} in train, {theirs} in test"


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
    if vocab_sizes is not None and vocab_sizes != content["vocab_sizes"]:
        raise DatasetError(
            f"{where}: vocabulary sizes given and stored differ: "
            f"expected {vocab_sizes}, found {content['vocab_sizes']}"
        )
    return describe.from_metadata(folder, content)
