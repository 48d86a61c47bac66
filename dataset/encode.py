"""Encodes chunks of samples as the files of each layout that can be written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dataset import column_kernels, lists
from dataset.chunks import Chunk, check_dense, transformed_dense
from dataset.columns import (
    CATEGORICAL,
    DENSE,
    LABEL,
    DatasetDescription,
    apply_transform,
    narrow_dtype,
)
from dataset.describe import DENSE_FEATURES
from dataset.errors import DatasetError
from dataset.layouts import RAW_TRANSFORM
from ops.bags import Bags
from storage.direct_io import ThreadBuffers

#: Size of the lookup table of float16 logarithms of counts, which fits the cache.
_LOOKED_UP = 65536


#: Kind of a file of boundaries, which follows the ids of its variable feature.
BOUNDARIES = "boundaries"


class OutputFile(NamedTuple):
    """A file to write: its name and its entries in metadata.json.

    `bags` are the slots of a categorical column's features. The ids of a variable feature are
    followed by a file of kind `BOUNDARIES`.
    """

    name: str
    kind: str
    dtype: str
    width: int
    bags: Bags | None = None

    @property
    def bytes_per_sample(self) -> int:
        """Stored bytes of one sample."""
        return self.width * np.dtype(self.dtype).itemsize


class Encoding(NamedTuple):
    """How chunks of a source become the files of a layout.

    Attributes:
        layout: name of the layout.
        dense_transform: the transform that a reader of the result applies.
        applied_transform: the transform applied to the result's stored values; None if unknown.
        files: the files in column order.
        encode: function (chunk) -> one contiguous array per file. The thread's next chunk
            overwrites the arrays. For a variable feature, they are the ids of the chunk's lists
            and where each list begins in the file of ids, int64 [samples]; in the last chunk,
            also where the last list ends.
    """

    layout: str
    dense_transform: str
    applied_transform: str | None
    files: list[OutputFile]
    encode: Callable[[Chunk], list[np.ndarray]]

    def positions(self, chunk: Chunk, arrays: Sequence[np.ndarray]) -> list[int]:
        """Returns the byte offset in its file of each array that `encode` returned for a chunk."""
        offsets = [chunk.first * file.bytes_per_sample for file in self.files]
        for index, file in enumerate(self.files):
            if file.kind == BOUNDARIES:
                values = self.files[index - 1]
                offsets[index - 1] = int(arrays[index][0]) * values.bytes_per_sample
        return offsets


def encoding(source: DatasetDescription, layout: str) -> Encoding:
    """Returns the `Encoding` of the described `source` in `layout`.

    Raises:
        DatasetError: the layout is read-only, or cannot hold the source's values.
    """
    if layout not in _ENCODINGS:
        raise DatasetError.mismatch(None, "layout to write", tuple(_ENCODINGS), layout)
    if layout != "per_table" and any(source.bags.variable):
        table = source.bags.variable.index(True)
        raise DatasetError.of_path(
            source.path,
            f"to write {layout}, expected lists of fixed length, found lists of 0 to "
            f"{source.bags.hotness[table]} ids for table {table}; choose per_table",
            flag="layout",
            table=table,
        )
    return _ENCODINGS[layout](source)


def _three_file(source):
    label = "float32" if source.label_column.dtype == "float32" else "int32"
    dense = "int32" if source.dense_column.dtype == "int32" else "float32"
    slots = source.bags.slots
    files = [
        OutputFile("label.bin", LABEL, label, 1),
        OutputFile("dense.bin", DENSE, dense, source.dense_features),
        OutputFile("category.bin", CATEGORICAL, "int32", slots, source.bags),
    ]

    buffers = ThreadBuffers()

    def encode(chunk):
        # The reader will apply the transform; its invalid values must be found now.
        check_dense(chunk, source.dense_column)
        if len(chunk.ids) == 1 and chunk.ids[0].dtype == np.int32:
            ids = chunk.ids[0]
        else:
            ids = buffers.array("ids", (len(chunk.label), slots), np.int32)
            column_kernels.copy_ids(chunk.ids, [ids])
        values = chunk.dense
        if values.dtype == np.float16:
            values = buffers.array("dense", values.shape, np.float32)
            column_kernels.halves_to_floats(chunk.dense, values)
        return [chunk.label.astype(label, copy=False), values.astype(dense, copy=False), ids]

    return Encoding("three_file", source.dense_transform, source.applied_transform, files, encode)


def _per_table(source):
    files = [
        OutputFile("label.bin", LABEL, "bool", 1),
        OutputFile("dense.bin", DENSE, "float16", source.dense_features),
    ]
    for table, rows in enumerate(source.vocab_sizes):
        bags = source.bags.select([table])
        width = 1 if bags.variable[0] else bags.slots
        name = f"category_{table}"
        files.append(OutputFile(f"{name}.bin", CATEGORICAL, narrow_dtype(rows), width, bags))
        if bags.variable[0]:
            files.append(OutputFile(f"{name}_offsets.bin", BOUNDARIES, lists.BOUNDARY_DTYPE, 1))
    # Most counts are small: a lookup of their logarithms is several times faster.
    logs = None
    if source.dense_column.dtype == "int32" and source.dense_transform != "none":
        counts = np.arange(_LOOKED_UP, dtype=np.int32)
        logs = apply_transform(counts, source.dense_transform).astype(np.float16)

    buffers = ThreadBuffers()
    encode_ids = _narrow_encoder(source, files[2:], buffers)

    def encode(chunk):
        if chunk.dense.dtype == np.float16 and source.dense_transform == "none":
            check_dense(chunk, source.dense_column)
            half = chunk.dense
        elif logs is not None:
            check_dense(chunk, source.dense_column)
            half = buffers.array("dense", chunk.dense.shape, np.float16)
            _look_up(logs, chunk.dense, source.dense_transform, half)
        else:
            half = _half(transformed_dense(chunk, source.dense_column), chunk, source)
        return [chunk.label.astype(np.uint8), half, *encode_ids(chunk)]

    return Encoding("per_table", "none", source.effective_transform, files, encode)


def _narrow_encoder(source, files, buffers):
    """Returns a function (chunk) -> the arrays of the per-table files of ids, in their order."""
    columns = source.table_columns
    fixed = [index for index, column in enumerate(columns) if not column.offsets]
    file_of_table = [index for index, file in enumerate(files) if file.kind != BOUNDARIES]
    targets = [file_of_table[table] for index in fixed for table in columns[index].tables]
    variable = {
        index: file_of_table[column.first_table]
        for index, column in enumerate(columns)
        if column.offsets
    }

    def encode_ids(chunk):
        samples, arrays = len(chunk.label), [np.empty(0)] * len(files)
        for index in targets:
            arrays[index] = buffers.array(index, (samples, files[index].width), files[index].dtype)
        if fixed:
            column_kernels.copy_ids([chunk.ids[i] for i in fixed], [arrays[i] for i in targets])
        # The last chunk has one more boundary: the end of the last list.
        kept = samples + chunk.last
        for position, index in variable.items():
            ids = chunk.ids[position]
            arrays[index] = buffers.array(index, ids.shape, files[index].dtype)
            arrays[index][...] = ids
            arrays[index + 1] = chunk.boundaries[position][:kept]
        return arrays

    return encode_ids


def _look_up(logs, counts, transform, half):
    """Fills `half` with transformed counts, from `logs` for those below `_LOOKED_UP`."""
    if column_kernels.look_up(logs, counts, half):
        beyond = counts.view(np.uint32) >= _LOOKED_UP  # includes negative counts
        half[beyond] = apply_transform(counts[beyond], transform).astype(np.float16)


def _half(dense, chunk, source):
    with np.errstate(over="ignore"):
        half = dense.astype(np.float16)
    if np.isinf(half).any():
        row, position = (int(i) for i in np.argwhere(np.isinf(half))[0])
        sample = chunk.first + row
        raise DatasetError.of_path(
            source.dense_column.segments[0].path,
            f"sample {sample}, dense feature {position}: expected at most 65504 (float16), found "
            f"{dense[row, position]}; try --dense_transform",
            flag="dense_transform",
            sample=sample,
        )
    return half


def _raw(source):
    column = source.dense_column
    if column.transform != RAW_TRANSFORM:
        applied = source.applied_transform
        if applied == "none":
            values = f"counts with dense transform {column.transform}"
            advice = f"; try --dense_transform '{RAW_TRANSFORM}'"
        else:
            values = "values that are already transformed"
            values += "" if applied is None else f" ({applied})"
            advice = "; choose another layout"
        raise DatasetError.of_path(
            source.path,
            f"raw files hold counts that are read with {RAW_TRANSFORM}: cannot write them from "
            f"{values}{advice}",
            flag="dense_transform" if applied == "none" else "layout",
        )
    dense = source.dense_features
    if dense != DENSE_FEATURES:
        # A raw file does not record the number of its dense features.
        problem = f"to write raw files, expected {DENSE_FEATURES} dense features, found {dense}"
        raise DatasetError.of_path(source.path, f"{problem}; choose another layout", flag="layout")
    width = 1 + dense + source.bags.slots
    buffers = ThreadBuffers()

    def encode(chunk):
        check_dense(chunk, column)
        records = buffers.array("records", (len(chunk.label), width), np.int32)
        records[:, 0] = chunk.label
        records[:, 1 : 1 + dense] = chunk.dense
        if column.dtype != "int32" and (records[:, 1 : 1 + dense] != chunk.dense).any():
            row, position = (
                int(i) for i in np.argwhere(records[:, 1 : 1 + dense] != chunk.dense)[0]
            )
            sample = chunk.first + row
            raise DatasetError.of_path(
                column.segments[0].path,
                f"sample {sample}, dense feature {position}: to write raw files, expected an "
                f"integer, found {chunk.dense[row, position]}",
                sample=sample,
            )
        column_kernels.copy_ids(chunk.ids, [records[:, 1 + dense :]])
        return [records]

    # One file of complete records; raw files have no metadata.json.
    files = [OutputFile("", "raw", "int32", width)]
    return Encoding("raw", RAW_TRANSFORM, "none", files, encode)


_ENCODINGS = {"three_file": _three_file, "per_table": _per_table, "raw": _raw}
