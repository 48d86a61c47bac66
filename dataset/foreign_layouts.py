"""Layouts of other projects: DeepLearningExamples, MLPerf v0.7.

Also recognises raw records of another format, such as with int64 or multi-hot ids, so that the
error can name them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import numpy as np

from dataset import feature_spec, files, vocabularies
from dataset.columns import DENSE, LABEL, DatasetDescription
from dataset.describe import (
    DENSE_FEATURES,
    FileColumn,
    check_table_files,
    describe_files,
    describe_narrow,
    table_columns,
)
from dataset.errors import DatasetError
from ops.bags import MLPERF_HOTNESS
from storage import regular

if TYPE_CHECKING:
    from dataset.layouts import Hints

MODEL_SIZE = "model_size.json"
#: {column: its largest id}.
_ModelSize = Annotated[dict[str, Any], msgspec.Meta(min_length=1)]
_LargestId = Annotated[int, msgspec.Meta(ge=0, lt=vocabularies.MAX_ROWS)]
#: Records checked, from the start of the file.
_RECORDS = 64
#: A label of 1, as int32 and as float32.
_ONES = (1, 0x3F800000)


def recognise_nvidia(folder: str) -> str:
    """Returns the layout, DeepLearningExamples or MLPerf v0.7, of files with the same names.

    The former has 1 + 26 bytes of label and dense features per sample, the latter 4 + 52.

    Raises:
        DatasetError: the sizes of label.bin and numerical.bin fit neither layout.
    """
    label = files.size(os.path.join(folder, "label.bin"))
    dense = files.size(os.path.join(folder, "numerical.bin"))
    if dense == 2 * DENSE_FEATURES * label:
        return "deep_learning_examples"
    if dense == DENSE_FEATURES * label:
        return "mlperf_v0.7"
    raise DatasetError.of_path(
        folder,
        f"sample counts differ: with {label} bytes in label.bin, expected numerical.bin to have "
        f"{2 * DENSE_FEATURES * label} bytes (DeepLearningExamples: bool, float16) or "
        f"{DENSE_FEATURES * label} bytes (MLPerf v0.7: float32, float32), found {dense} bytes",
    )


def deep_learning_examples(folder: str, hints: Hints) -> DatasetDescription:
    """Describes a split of NVIDIA's DeepLearningExamples: narrow columns, transformed values."""
    spec = feature_spec.find(os.path.normpath(os.path.join(folder, os.pardir)))
    if spec is not None:
        return feature_spec.describe(spec, os.path.basename(folder), hints.vocab_sizes)
    sizes = _model_size(folder, hints)
    bags = hints.find_bags(folder, len(sizes))
    return describe_narrow(folder, "deep_learning_examples", sizes, bags, "numerical.bin", "cat_")


def mlperf_v07(folder: str, hints: Hints) -> DatasetDescription:
    """Describes a split of NVIDIA's MLPerf v0.7 split_data.py: float32 raw counts, int32 ids."""
    sizes = _model_size(folder, hints)
    check_table_files(folder, "cat_", len(sizes))
    label, dense = hints.declared.label or "float32", hints.declared.dense or "float32"
    columns = [
        FileColumn("label.bin", LABEL, label, 1),
        FileColumn("numerical.bin", DENSE, dense, DENSE_FEATURES, 0, "log(x+1)"),
        *table_columns("cat_", ["int32"] * len(sizes), hints.find_bags(folder, len(sizes))),
    ]
    return describe_files(folder, "mlperf_v0.7", columns, sizes)


def _model_size(folder, hints):
    """Returns the sizes in the hints, or those of model_size.json, which stores largest ids."""
    if hints.vocab_sizes is None and hints.train is None:
        for around in (folder, os.path.join(folder, os.pardir)):
            path = os.path.normpath(os.path.join(around, MODEL_SIZE))
            if files.exists(path):
                largest = files.read_json(path, _ModelSize)
                for name, value in largest.items():
                    files.check_shape(value, path, _LargestId, name)
                return vocabularies.check_sizes([v + 1 for v in largest.values()], path)
    return hints.find_vocab_sizes(folder)


class _RecordFormat(NamedTuple):
    name: str
    record: int
    # Words of a record that must be 0: the upper halves of nonnegative 8-byte numbers.
    zeros: tuple


def find_other_format(path: str, dense_features: int, ids: int) -> str:
    """Returns a description of the records if they have another format, else "".

    A format matches if its record size divides the file size and the first records are plausible in
    it (labels are 0 or 1, upper halves of int64 are 0), but not in the expected format.

    Args:
        path: a raw file, of any size.
        dense_features: expected number of dense features.
        ids: expected ids per record.
    """
    words = 1 + dense_features + ids
    with regular.open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        stored = file.read(_RECORDS * 8 * (words + sum(MLPERF_HOTNESS)))
    stored = np.frombuffer(stored[: len(stored) // 4 * 4], "<u4")
    if not size or (
        size % (4 * words) == 0 and _is_format(stored, _RecordFormat("", 4 * words, ()))
    ):
        return ""
    first_id = 1 + dense_features
    formats = [
        _RecordFormat(
            "int64 ids", 4 * first_id + 8 * ids,
            tuple(range(first_id + 1, first_id + 2 * ids, 2)),
        ),
        _RecordFormat("8-byte values throughout", 8 * words, ()),
    ]  # fmt: skip
    if ids == len(MLPERF_HOTNESS):
        name = "multi-hot ids of DLRM-DCNv2 (--hotness mlperf)"
        formats.append(_RecordFormat(name, 4 * (first_id + sum(MLPERF_HOTNESS)), ()))
    for found in formats:
        if size % found.record == 0 and _is_format(stored, found):
            return (
                f"records of {found.record} bytes, as with {found.name}: expected {4 * words} "
                f"bytes (label, {dense_features} dense values and {ids} ids of 4 bytes each)"
            )
    return ""


def _is_format(stored, form):
    width = form.record // 4
    records = stored[: len(stored) // width * width].reshape(-1, width)[:_RECORDS]
    labels = records[:, 0]
    return (
        len(records) > 0
        and bool(((labels == 0) | np.isin(labels, _ONES)).all())
        and not records[:, list(form.zeros)].any()
    )
