"""Layouts that other projects' scripts write: DeepLearningExamples, MLPerf v0.7, TorchRec."""

import os
import re

import numpy as np
import yaml

from dataset import files, metadata
from dataset.columns import CATEGORICAL, DENSE, LABEL, Column, DatasetDescription, narrow_dtype
from dataset.describe import DENSE_FEATURES, check_table_files, describe_files
from dataset.errors import DatasetError

FEATURE_SPEC = "feature_spec.yaml"
MODEL_SIZE = "model_size.json"
_DAY = re.compile(r"day_(\d+)_(dense|sparse|labels)\.npy")


def recognise_nvidia(folder):
    """Tells DeepLearningExamples' files from MLPerf v0.7's, which have the same names.

    The former hold 1 + 26 bytes of label and dense features per sample, the latter 4 + 52.
    """
    label = files.size(os.path.join(folder, "label.bin"))
    dense = files.size(os.path.join(folder, "numerical.bin"))
    if dense == 2 * DENSE_FEATURES * label:
        return "deep_learning_examples"
    if dense == DENSE_FEATURES * label:
        return "mlperf_v0.7"
    raise DatasetError(
        f"{folder}: sample counts differ: for a label.bin of {label} bytes, numerical.bin is "
        f"expected to have {2 * DENSE_FEATURES * label} bytes (DeepLearningExamples: bool, "
        f"float16) or {DENSE_FEATURES * label} (MLPerf v0.7: float32, float32), found {dense}"
    )


def deep_learning_examples(folder, hints):
    """Describes a split of NVIDIA's DeepLearningExamples: narrow columns, dense transformed."""
    spec = os.path.join(folder, os.pardir, FEATURE_SPEC)
    if os.path.exists(spec) and hints.vocab_sizes is None:
        return _from_feature_spec(folder, os.path.normpath(spec))
    sizes = _model_size(folder, hints)
    check_table_files(folder, "cat_", len(sizes))
    columns = [
        ("label.bin", LABEL, "bool", 1, 0, "none"),
        ("numerical.bin", DENSE, "float16", DENSE_FEATURES, 0, "none"),
    ]
    for table, rows in enumerate(sizes):
        columns.append((f"cat_{table}.bin", CATEGORICAL, narrow_dtype(rows), 1, table, "none"))
    return describe_files(folder, "deep_learning_examples", columns, sizes)


def mlperf_v07(folder, hints):
    """Describes a split of NVIDIA's MLPerf v0.7 split_data.py: float32 raw counts, int32 ids."""
    sizes = _model_size(folder, hints)
    check_table_files(folder, "cat_", len(sizes))
    columns = [
        ("label.bin", LABEL, "float32", 1, 0, "none"),
        ("numerical.bin", DENSE, "float32", DENSE_FEATURES, 0, "log(x+1)"),
    ]
    columns += [(f"cat_{t}.bin", CATEGORICAL, "int32", 1, t, "none") for t in range(len(sizes))]
    return describe_files(folder, "mlperf_v0.7", columns, sizes)


def _model_size(folder, hints):
    """Returns the sizes given, or those of model_size.json, which stores largest ids."""
    if hints.vocab_sizes is None and hints.train is None:
        for around in (folder, os.path.join(folder, os.pardir)):
            path = os.path.normpath(os.path.join(around, MODEL_SIZE))
            if os.path.exists(path):
                largest = metadata.read_json(path)
                if not isinstance(largest, dict) or not all(
                    isinstance(v, int) and not isinstance(v, bool) for v in largest.values()
                ):
                    raise DatasetError(f"{path}: expected an object of each column's largest id")
                return metadata.check_vocab_sizes([v + 1 for v in largest.values()], path)
    return hints.find_vocab_sizes(folder)


def _from_feature_spec(folder, path):
    try:
        with open(path, encoding="utf-8") as file:
            spec = yaml.safe_load(file)
    except (OSError, yaml.YAMLError) as error:
        raise DatasetError(f"{path}: cannot be read as YAML: {error}") from error
    root, split = os.path.dirname(path), os.path.basename(folder)
    try:
        features, channels = spec["feature_spec"], spec["channel_spec"]
        file_of = {}
        for chunk in spec["source_spec"][split]:
            for name in chunk["features"]:
                file_of[name] = (os.path.join(root, chunk["files"][0]), list(chunk["features"]))
        ids, dense, (label,) = channels["categorical"], channels["numerical"], channels["label"]
        sizes = metadata.check_vocab_sizes([features[name]["cardinality"] for name in ids], path)
        if any(file_of[name][1] != list(dense) for name in dense):
            raise DatasetError(f"{path}: the numerical features must lie in one file, in order")
        columns = [
            (file_of[label][0], LABEL, str(features[label]["dtype"]), 1, 0, "none"),
            (
                file_of[dense[0]][0], DENSE, str(features[dense[0]]["dtype"]), len(dense), 0,
                "none",
            ),
        ]  # fmt: skip
        for table, name in enumerate(ids):
            columns.append(
                (file_of[name][0], CATEGORICAL, str(features[name]["dtype"]), 1, table, "none")
            )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"{path}: not a feature spec with split {split!r}: {type(error).__name__}: {error}"
        ) from error
    columns = [(os.path.relpath(name, folder), *rest) for name, *rest in columns]
    return describe_files(folder, "deep_learning_examples", columns, sizes)


def day_numbers(folder):
    """Returns the sorted numbers of the TorchRec days in `folder`."""
    matches = (_DAY.fullmatch(name) for name in os.listdir(folder))
    return sorted({int(match[1]) for match in matches if match})


def torchrec(folder, hints):
    """Describes all of a folder's TorchRec days, in order, as one split."""
    days = day_numbers(folder)
    if not days:
        raise DatasetError(f"{folder}: missing files day_*_{{dense,sparse,labels}}.npy")
    return _describe_days(folder, days, hints.find_vocab_sizes(folder))


def open_days(folder, hints):
    """Describes a flat folder of days: all but the last train, half of the last is the test set.

    The first half (rounded up) of the last day is the test set of the MLPerf benchmark; TorchRec's
    own example calls that half its validation set.

    Returns:
        (train, test) descriptions.
    """
    days = day_numbers(folder)
    if len(days) < 2:
        raise DatasetError(
            f"{folder}: expected at least two days (the last one is the test set), found day "
            f"{days[0]} alone"
        )
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
                raise DatasetError(
                    f"{path}: sample counts differ: expected {expected} rows as in "
                    f"{os.path.basename(paths[-1])}, found {samples}"
                )
            expected = samples
            kept = (samples + 1) // 2 if first_half else samples
            segments[kind] += files.whole_file(path, kept, offset)
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
    """Returns (rows, byte offset of the first) of a C-ordered .npy array [rows, width]."""
    files.size(path)
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, found = read_header(file)
            offset = file.tell()
    except (ValueError, KeyError, OSError) as error:
        raise DatasetError(f"{path}: not a .npy file: {error}") from error
    rows = shape[0] if shape else 0
    if shape not in ((rows, width), (rows,)[: 1 if width == 1 else 0]) or fortran:
        raise DatasetError(
            f"{path}: expected an array of shape [n, {width}] in C order, found {list(shape)}"
            f"{' in Fortran order' if fortran else ''}"
        )
    if found != np.dtype(dtype):
        raise DatasetError(f"{path}: expected dtype {dtype}, found {found}")
    files.expect_samples(path, width * np.dtype(dtype).itemsize, rows, header=offset)
    return rows, offset
