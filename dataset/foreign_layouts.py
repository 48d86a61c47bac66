"""Layouts of other projects: DeepLearningExamples, MLPerf v0.7, TorchRec.

Also recognises raw records of another format, such as with int64 or multi-hot ids, so that the
error can name them.
"""

from __future__ import annotations

import os
import re
import tokenize
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import numpy as np

from dataset import feature_spec, files, vocabularies
from dataset.columns import CATEGORICAL, DENSE, LABEL, Column, DatasetDescription
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
_MULTI_HOT = re.compile(r"day_\d+_sparse_multi_hot\.npz")
# Exceptions of NumPy for an invalid header, which should be a Python literal.
_INVALID_HEADER = (
    ValueError, TypeError, KeyError, OSError, SyntaxError, RecursionError, MemoryError,
    tokenize.TokenError,
)  # fmt: skip
_DAY = re.compile(r"day_(\d+)_(dense|sparse|labels)\.npy")
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


def day_numbers(folder: str) -> list[int]:
    """Returns the sorted numbers of the TorchRec days in `folder`."""
    names = files.names_in(folder)
    matches = [match for match in map(_DAY.fullmatch, names) if match]
    multi_hot = next((name for name in names if _MULTI_HOT.fullmatch(name)), None)
    if multi_hot is not None and not any(match[2] == "sparse" for match in matches):
        raise DatasetError.of_path(
            os.path.join(folder, multi_hot),
            "expected day_*_sparse.npy with one id per table, found multi-hot ids (.npz); "
            "multi-hot data is not supported",
        )
    return sorted({int(match[1]) for match in matches})


def torchrec(folder: str, hints: Hints) -> DatasetDescription:
    """Describes all of a folder's TorchRec days, in order, as one split."""
    days = day_numbers(folder)
    if not days:
        raise DatasetError.of_path(folder, "missing files day_*_{dense,sparse,labels}.npy")
    return _describe_days(folder, days, hints.find_vocab_sizes(folder))


def open_days(folder: str, hints: Hints) -> tuple[DatasetDescription, DatasetDescription]:
    """Describes a flat folder of days: the last day gives the test split, the others train.

    The test split is the first half (rounded up) of the last day, as in the MLPerf benchmark.
    TorchRec's example uses that half for validation.

    Returns:
        (train, test) descriptions.
    """
    days = day_numbers(folder)
    if len(days) < 2:
        what = "days (the last one is the test split)"
        raise DatasetError.mismatch(folder, what, "at least 2", len(days))
    sizes = hints.find_vocab_sizes(folder)
    train = _describe_days(folder, days[:-1], sizes)
    return train, _describe_days(folder, days[-1:], sizes, first_half=True)


def _describe_days(folder, days, sizes, first_half=False):
    parts = [
        ("labels", LABEL, "int32", 1),
        ("dense", DENSE, "float32", DENSE_FEATURES),
        ("sparse", CATEGORICAL, "int32", len(sizes)),
    ]
    segments = {kind: [] for _, kind, _, _ in parts}
    paths = []
    for day in days:
        expected = None
        for part, kind, dtype, width in parts:
            path = os.path.join(folder, f"day_{day}_{part}.npy")
            samples, offset = _npy_rows(path, dtype, width)
            if expected not in (None, samples):
                name = os.path.basename(paths[-1])
                raise DatasetError.of_path(
                    path,
                    f"sample counts differ: expected {expected} rows as in {name}, found {samples}",
                    expected=expected,
                    found=samples,
                )
            expected = samples
            kept = (samples + 1) // 2 if first_half else samples
            segments[kind] += files.single_segment(path, kept, offset)
            paths.append(path)
    columns = tuple(
        Column(kind, tuple(segments[kind]), dtype, width, width * np.dtype(dtype).itemsize)
        for _, kind, dtype, width in parts
    )
    return DatasetDescription(
        path=folder,
        layout="torchrec",
        samples=columns[0].samples,
        vocab_sizes=sizes,
        columns=columns,
        fingerprint=files.sampled_fingerprint(paths, ("torchrec", sizes, first_half)),
    )


def _npy_rows(path, dtype, width):
    """Returns (rows, byte offset of the first one) of a .npy array [rows, width] in C order."""
    files.size(path)
    try:
        with regular.open_regular(path) as file:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, found = read_header(file)
            offset = file.tell()
    except _INVALID_HEADER as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DatasetError(f"{path}: not a .npy file: {reason}", path=path) from error
    rows = shape[0] if shape else 0
    if shape not in ((rows, width), (rows,)[: 1 if width == 1 else 0]) or fortran:
        order = " in Fortran order" if fortran else ""
        problem = f"expected an array of shape [n, {width}] in C order, found {list(shape)}{order}"
        raise DatasetError.of_path(path, problem)
    if found != np.dtype(dtype):
        raise DatasetError.mismatch(path, "dtype", dtype, str(found))
    files.expect_samples(path, width * np.dtype(dtype).itemsize, rows, header=offset)
    return rows, offset


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
