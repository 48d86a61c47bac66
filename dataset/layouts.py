"""Describes data in each layout, and recognises layouts.

The metadata.json of a split that this project wrote describes it completely
(`describe.from_metadata`). The functions in `LAYOUTS` describe all other data: the seed
benchmark's, raw files, and other projects' (`dataset.foreign_layouts`, `dataset.torchrec`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional, TypedDict

from dataset import files, foreign_layouts, metadata, torchrec, vocabularies
from dataset.columns import CATEGORICAL, DENSE, LABEL, Column, DatasetDescription
from dataset.describe import (
    DENSE_FEATURES,
    FileColumn,
    describe_files,
    describe_narrow,
    from_metadata,
)
from dataset.errors import DatasetError
from dataset.hotness import check_recorded_pooling, make_bags
from dataset.stored_types import Declared
from ops.bags import Bags
from storage import structured

#: The files of the train and the test split in the raw layout.
RAW_FILES = ("train_data.bin", "test_data.bin")
#: Facts about the raw files in the same folder, such as the attainable AUC.
GENERATOR_FILE = "generator.json"
#: Transform of raw counts, as in the MLPerf reference.
RAW_TRANSFORM = "log(x+1)"
#: Transform of the seed benchmark's `dense_log`.
SEED_TRANSFORM = "log(x+3)"


#: Not `float | None`, which Python 3.9 does not evaluate.
_Auc = Optional[float]


class _GeneratedFile(TypedDict, total=False):
    samples: int
    attainable_auc: _Auc


class _Generator(TypedDict):
    files: dict[str, _GeneratedFile]


class Hints(NamedTuple):
    """What is known about a split apart from its data files.

    Attributes:
        vocab_sizes: rows of each table, as given by the user.
        metadata: content of a metadata.json.
        train: description of the train split, for a test split.
        declared: types and transforms as given by the user.
    """

    vocab_sizes: list[int] | None = None
    metadata: dict[str, Any] | None = None
    train: DatasetDescription | None = None
    declared: Declared = Declared()

    def find_vocab_sizes(self, folder: str) -> list[int]:
        """Returns the sizes given by the user, the metadata, the train split or vocab_sizes.json.

        Raises:
            DatasetError: none of these gives them.
        """
        if self.vocab_sizes is not None:
            return self.vocab_sizes
        if self.metadata is not None:
            return self.metadata["vocab_sizes"]
        if self.train is not None:
            return self.train.vocab_sizes
        around = folder if files.is_folder(folder) else os.path.dirname(folder)
        found = vocabularies.find_sizes(around, os.path.join(around, os.pardir))
        if found is None:
            side = os.path.join(around, vocabularies.FILE_NAME)
            raise DatasetError.of_path(
                folder,
                f"unknown vocabulary sizes; write them as a JSON list to {side} (or give "
                "--vocab_sizes to split_bin.py, dataset.convert or dataset.validate)",
                flag="vocab_sizes",
            )
        return found

    def find_bags(self, folder: str, features: int) -> Bags:
        """Returns the bags given by the user, the metadata or the train split; else one-hot.

        Args:
            folder: the split, for errors.
            features: number of features.

        Raises:
            DatasetError: a list has another length, the user's lists contradict the metadata, or
                the lists of the train split vary in length.
        """
        bags = self._find_bags(folder, features)
        if self.metadata is not None and metadata.records_pooling(self.metadata):
            check_recorded_pooling(folder, bags, self.declared.pooling)
        return bags

    def _find_bags(self, folder, features):
        given, known = self.declared.hotness, None
        if self.metadata is not None:
            known = metadata.bags(self.metadata, folder)
            stored = self.metadata.get("hotness_per_table", given)
            if given is not None and list(given) != stored:
                what = "--hotness contradicts hotness_per_table in metadata.json"
                raise DatasetError.mismatch(folder, what, stored, list(given), flag="hotness")
        elif self.train is not None:
            known = self.train.bags
        if given is not None or known is None:
            pooling = None if known is None else known.pooling
            where = folder if given is None else "--hotness"
            return make_bags(given, pooling, features, where, flag="hotness")
        if any(known.variable):
            what, expected = "lists of variable length", f"a {metadata.FILE_NAME} with their files"
            raise DatasetError.mismatch(folder, what, expected, None)
        return make_bags(known.hotness, known.pooling, features, folder)


def listing(folder: str) -> str:
    """Returns the first names in `folder` as text for a message."""
    names = files.names_in(folder)
    return (", ".join(names[:8]) + (" ..." if len(names) > 8 else "")) or "nothing"


def recognise(path: str) -> str:
    """Returns the name of the layout in the folder or file `path`.

    Raises:
        DatasetError: the folder's files fit no layout.
    """
    if not files.is_folder(path):
        return "raw"
    names = set(files.names_in(path))
    if "category.bin" in names:
        return "three_file"
    if any(re.fullmatch(r"category_\d+\.bin", name) for name in names):
        return "per_table"
    if has_days(path):
        return torchrec.recognise(path)
    if "numerical.bin" in names or "cat_0.bin" in names:
        return foreign_layouts.recognise_nvidia(path)
    unfinished = sorted(name for name in names if name.endswith(".partial"))
    if unfinished:
        found, advice = ", ".join(unfinished[:3]), "; write the split again"
        raise DatasetError.mismatch(path, "incomplete split", metadata.FILE_NAME, found, advice)
    expected = ("category.bin", "category_0.bin", "cat_0.bin", "day_0_sparse.npy")
    raise DatasetError.mismatch(path, "unknown data layout", expected, listing(path))


def _three_file(folder, hints):
    stored = hints.metadata or {}
    sizes = hints.find_vocab_sizes(folder)
    if "format_version" in stored or (hints.train is not None and not stored):
        # A test split without metadata is stored like its train split.
        train = hints.train or from_metadata(os.path.join(os.path.dirname(folder), "train"), stored)
        label, dense = train.label_column.dtype, train.dense_column.dtype
        transform = train.dense_transform
    else:
        label = hints.declared.label or stored.get("label_raw_type", "int32")
        dense = hints.declared.dense or stored.get("dense_raw_type", "int32")
        transform = SEED_TRANSFORM if stored.get("dense_log", True) else "none"
    bags = hints.find_bags(folder, len(sizes))
    columns = [
        FileColumn("label.bin", LABEL, label, 1),
        FileColumn("dense.bin", DENSE, dense, DENSE_FEATURES, 0, transform),
        FileColumn("category.bin", CATEGORICAL, "int32", bags.slots, bags=bags),
    ]
    return describe_files(folder, "three_file", columns, sizes)


def _per_table(folder, hints):
    sizes = hints.find_vocab_sizes(folder)
    bags = hints.find_bags(folder, len(sizes))
    return describe_narrow(folder, "per_table", sizes, bags, "dense.bin", "category_")


def _raw(path, hints):
    if files.is_folder(path):
        found = [name for name in RAW_FILES if files.exists(os.path.join(path, name))]
        if len(found) != 1:
            what, advice = "a raw split is a file", "; give the path of the file"
            raise DatasetError.mismatch(path, what, RAW_FILES, listing(path), advice)
        path = os.path.join(path, found[0])
    if hints.metadata is None:
        hints = hints._replace(metadata=raw_metadata(path))
    sizes, declared = hints.find_vocab_sizes(path), hints.declared
    return describe_raw(
        path,
        sizes,
        bags=hints.find_bags(path, len(sizes)),
        label=declared.label or "int32",
        dense=declared.dense or "int32",
    )


def raw_metadata(path: str) -> dict[str, Any] | None:
    """Returns the content of a metadata.json next to a raw file, if it describes raw records.

    Raises:
        DatasetError: the file cannot be read, or is invalid.
    """
    folder = os.path.dirname(path)
    side = os.path.join(folder, metadata.FILE_NAME)
    try:
        content = structured.read_json(side, Any) if files.exists(side) else None
    except structured.StructureError:
        content = None  # Another program's.
    except OSError as error:
        raise DatasetError.of_os(error, side) from error
    return metadata.read(folder) if metadata.describes_raw(content) else None


def raw_record_bytes(ids: int, dense_features: int = DENSE_FEATURES) -> int:
    """Returns the bytes of one raw record: 160 for 13 dense features and 26 ids."""
    return 4 * (1 + dense_features + ids)


def describe_raw(
    path: str,
    vocab_sizes: Sequence[int],
    dense_features: int = DENSE_FEATURES,
    *,
    bags: Bags | None = None,
    label: str = "int32",
    dense: str = "int32",
) -> DatasetDescription:
    """Describes a file of raw records: label, dense counts, ids, of 4 bytes each, little-endian.

    Args:
        path: the file.
        vocab_sizes: rows of each table.
        dense_features: dense values per record.
        bags: the ids of each table; default: one.
        label: dtype of the label, int32 or float32.
        dense: dtype of the dense values, int32 or float32.

    Raises:
        DatasetError: the file cannot be read, or holds other records.
    """
    bags = Bags.one_hot(len(vocab_sizes)) if bags is None else bags
    record = raw_record_bytes(bags.slots, dense_features)
    files.size(path)
    other = foreign_layouts.find_other_format(path, dense_features, bags.slots)
    if other:
        raise DatasetError(f"{path}: holds {other}", path=path, expected=record)
    samples = files.count_samples(path, record)

    facts = ("raw", list(vocab_sizes))
    if bags.is_one_hot:
        bags, width = None, bags.slots
    else:
        facts, width = (*facts, bags.hotness), bags.slots

    def column(kind, first_value, width, dtype="int32", transform="none", bags=None):
        segments = files.single_segment(path, samples, offset=4 * first_value)
        return Column(kind, segments, dtype, width, record, 0, transform, bags=bags)

    return DatasetDescription(
        path=os.fspath(path),
        layout="raw",
        samples=samples,
        vocab_sizes=list(vocab_sizes),
        columns=(
            column(LABEL, 0, 1, label),
            column(DENSE, 1, dense_features, dense, RAW_TRANSFORM),
            column(CATEGORICAL, 1 + dense_features, width, bags=bags),
        ),
        fingerprint=files.sampled_fingerprint([path], facts),
        attainable_auc=_generated_auc(path),
    )


def _generated_auc(path):
    side = os.path.join(os.path.dirname(path), GENERATOR_FILE)
    if not files.exists(side):
        return None
    entries = files.read_json(side, _Generator)["files"]
    return entries.get(os.path.basename(path), {}).get("attainable_auc")


def has_days(folder: str) -> bool:
    """Returns whether `folder` holds TorchRec's day files."""
    return bool(torchrec.day_numbers(folder))


#: Functions (folder, hints) -> description, by name of the layout.
LAYOUTS = {
    "raw": _raw,
    "three_file": _three_file,
    "per_table": _per_table,
    "deep_learning_examples": foreign_layouts.deep_learning_examples,
    "mlperf_v0.7": foreign_layouts.mlperf_v07,
    torchrec.ONE_HOT: torchrec.one_hot,
    torchrec.MULTI_HOT: torchrec.multi_hot,
}
