"""Writes a split from arrays, batch after batch; features may have several ids per sample."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Any, NoReturn, Union

import numpy as np

from dataset import encode, files, lists, vocabularies
from dataset.chunks import CHUNK_SAMPLES, Chunk, check_ids, check_labels
from dataset.columns import CATEGORICAL, DENSE, LABEL, Column, DatasetDescription, check_transform
from dataset.describe import DENSE_FEATURES
from dataset.destination import Destination
from dataset.errors import DatasetError
from ops.bags import Bags
from storage.claim import ClaimError
from storage.digests import BlockDigest
from storage.direct_io import page_aligned
from storage.partial_files import PartialFiles

#: Ids of one feature: an array [n, hotness], or for a variable feature the ids of all lists one
#: after another [values], and the lengths of the lists [n]. (Not `|`, for Python 3.9.)
Ids = Union[np.ndarray, tuple[np.ndarray, np.ndarray]]


class SplitWriter:
    """A context that writes one split in sample order, with metadata.json at its end.

    The files appear when the block ends without an error. With one id for the first feature, and
    lists for the second:

        with SplitWriter("data/train", [9, 50], Bags.of([1, 20], variable=[False, True])) as writer:
            writer.add(label, dense, [ids, (list_ids, lengths)])

    Args:
        folder: the folder to write.
        vocab_sizes: rows of each table.
        bags: the features. The hotness of a variable feature is the longest list allowed; the split
            records the longest one that was added.
        layout: "per_table", or "three_file" without variable features.
        dense_features: dense values per sample.
        dense_dtype: "int32" or "float32", the dtype of the dense values given to `add`.
        dense_transform: transform of the given dense values; the reader applies it, or with
            per_table this class.
        applied_transform: transform that was applied to the given values before; None if unknown.
        overwrite: replace an existing split that this project wrote.

    Raises:
        DatasetError: an argument is invalid, the folder holds a split or files that this project
            did not write, or no sample was added.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        vocab_sizes: Sequence[int],
        bags: Bags,
        *,
        layout: str = "per_table",
        dense_features: int = DENSE_FEATURES,
        dense_dtype: str = "int32",
        dense_transform: str = "log(x+1)",
        applied_transform: str | None = None,
        overwrite: bool = False,
    ):
        self._folder = os.fspath(folder)
        sizes = vocabularies.check_sizes(list(vocab_sizes), "the given list", bags.features)
        check_transform(dense_transform, self._folder)
        place = files.single_segment(self._folder, 0)
        columns = [
            Column(LABEL, place, "int32", 1, 4),
            Column(
                DENSE, place, dense_dtype, dense_features, 4 * dense_features, 0, dense_transform,
                applied_transform,
            ),
        ]  # fmt: skip
        for table, variable in enumerate(bags.variable):
            width = 1 if variable else bags.hotness[table]
            column = Column(
                CATEGORICAL, place, "int32", width, 4 * width, table, bags=bags.select([table]),
                offsets=place if variable else (),
            )  # fmt: skip
            columns.append(column)
        self._source = DatasetDescription(self._folder, layout, 0, sizes, tuple(columns), "")
        self._bags, self._overwrite = bags, overwrite
        self._encoding = encode.encoding(self._source, layout)
        self._digests = [BlockDigest(0) for _ in self._encoding.files]
        self._pending = [_PendingRows(column.width, column.dtype) for column in columns]
        variable = [table for table, is_variable in enumerate(bags.variable) if is_variable]
        # Where the pending lists begin in the file of ids, and where the last one ends.
        self._boundaries = {table: _PendingRows(1, lists.BOUNDARY_DTYPE) for table in variable}
        for pending in self._boundaries.values():
            pending.append(np.zeros((1, 1), np.int64))
        self._longest = dict.fromkeys(variable, 1)
        self._waiting = self._written = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> SplitWriter:
        self._target = Destination(self._folder, self._encoding.layout)
        if not self._overwrite:
            self._target.refuse_complete()
        os.makedirs(self._folder, exist_ok=True)
        names = [file.name for file in self._encoding.files]
        try:
            with contextlib.ExitStack() as stack:
                self._claim = stack.enter_context(self._target.claim())
                self._target.take(self._claim, self._source, names)
                paths = [self._target.path_of(name) for name in names]
                self._output = stack.enter_context(PartialFiles(paths))
                self._stack = stack.pop_all()
        except ClaimError as error:
            raise DatasetError.of_os(error) from error
        return self

    def add(self, label: np.ndarray, dense: np.ndarray, ids: Sequence[Ids]) -> None:
        """Adds n samples.

        Args:
            label: [n] or [n, 1], 0 or 1.
            dense: [n, dense features], of the dtype given to the constructor.
            ids: for each feature, its ids.

        Raises:
            DatasetError: an argument is not an array or has another shape or dtype, or a list is
                longer than its feature's hotness: the call adds no samples. Or (possibly in a later
                call) a value is invalid.
        """
        labels = self._array("label", label)
        if labels.ndim != 1 and labels.shape[1:] != (1,):
            self._refuse("shape of label", "[n]", list(labels.shape))
        samples = len(labels)
        arrays = [labels.reshape(samples, 1), self._array("dense", dense)]
        starts, longest = {}, {}
        if not isinstance(ids, Sequence) and not np.ndim(ids):
            self._refuse("ids", "a list of the ids of each feature", f"a {type(ids).__name__}")
        if len(ids) != self._bags.features:
            self._refuse("features with ids", self._bags.features, len(ids))
        for table, one in enumerate(ids):
            what = f"ids of table {table}"
            if table not in self._boundaries:
                if isinstance(one, tuple):
                    self._refuse(what, "one array", "a tuple")
                arrays.append(self._array(what, one))
                continue
            if not isinstance(one, tuple) or len(one) != 2:
                found = f"a tuple of {len(one)}" if isinstance(one, tuple) else "one array"
                self._refuse(what, "ids and the lengths of lists", found)
            values = self._array(what, one[0])
            lengths = self._array(f"lengths of table {table}", one[1])
            longest[table] = self._check_lengths(table, values, lengths, samples)
            starts[table] = np.zeros(samples + 1, np.int64)
            np.cumsum(lengths, out=starts[table][1:])
            arrays.append(values.reshape(-1, 1))
        # All arrays before any is kept: a refused call adds no samples.
        for index, array in enumerate(arrays):
            self._check(index, array, samples, starts.get(index - 2))
        for table, found in longest.items():
            self._longest[table] = max(self._longest[table], found)
        begin = 0
        while begin < samples:
            # Only now, so that at least one sample is left for the last chunk.
            if self._waiting == CHUNK_SAMPLES:
                self._write(last=False)
            end = min(samples, begin + CHUNK_SAMPLES - self._waiting)
            self._keep(arrays, starts, begin, end)
            begin = end

    def _array(self, what, given):
        """Returns an argument as an array."""
        try:
            return np.asarray(given)
        except (TypeError, ValueError) as error:
            # Rows of different lengths.
            found = f"a {type(given).__name__} ({str(error).splitlines()[0]})"
            self._refuse(what, "an array", found)

    def _keep(self, arrays, starts, begin, end):
        """Keeps some samples of a call until their chunk is complete."""
        for index, (pending, array) in enumerate(zip(self._pending, arrays)):
            table, rows = index - 2, slice(begin, end)
            if table in starts:
                bounds, known = starts[table][begin : end + 1], self._boundaries[table]
                rows = slice(bounds[0], bounds[-1])
                shift = known.rows[-1] - bounds[0]
                np.add(bounds[1:, None], shift, out=known.extend(end - begin))
            pending.append(array[rows])
        self._waiting += end - begin

    def _check(self, index, array, samples, starts):
        """Checks a column's values [rows, width]: shape, dtype, and that int32 holds them.

        `starts` is where the lists of a variable feature begin in them, [samples + 1], else None.
        """
        column = self._source.columns[index]
        what = f"shape of table {index - 2}" if index > 1 else f"shape of {column.kind}"
        rows = samples if starts is None else len(array)
        if array.shape != (rows, column.width):
            self._refuse(what, [rows, column.width], list(array.shape))
        if column.kind == DENSE:
            if array.dtype != column.dtype:
                self._refuse("dtype of dense", column.dtype, array.dtype)
            return
        if array.dtype.kind not in "iub":
            self._refuse(what.replace("shape", "dtype"), "integers", array.dtype)
        if np.can_cast(array.dtype, np.int32) or not array.size:
            return
        limits = np.iinfo(np.int32)
        if array.min() < limits.min or array.max() > limits.max:
            # They would wrap; none is a label or an id.
            first, bounds = self._written + self._waiting, {} if starts is None else {0: starts}
            chunk = Chunk(first, array[:, 0], array, [array], bounds)
            if column.kind == LABEL:
                check_labels(chunk, self._folder)
            else:
                check_ids(chunk, [column], self._source.vocab_sizes)

    def _check_lengths(self, table, values, lengths, samples):
        """Returns the length of the longest list."""
        if lengths.shape != (samples,) or values.ndim != 1:
            found = f"{list(values.shape)} and {list(lengths.shape)}"
            self._refuse(f"shapes of table {table}", f"[values] and [{samples}]", found)
        if lengths.dtype.kind not in "iu":
            self._refuse(f"dtype of the lengths of table {table}", "integers", lengths.dtype)
        if samples and lengths.min() < 0:
            self._refuse(f"length of a list of table {table}", "at least 0", lengths.min())
        if lengths.sum() != len(values):
            self._refuse(f"sum of the lengths of table {table}", len(values), lengths.sum())
        longest = int(lengths.max(initial=0))
        if longest > self._bags.hotness[table]:
            sample = self._written + self._waiting + int(np.argmax(lengths))
            what, bound = f"table {table}, sample {sample}: ids", self._bags.hotness[table]
            self._refuse(what, f"at most {bound}, the hotness", longest, table=table, sample=sample)
        return longest

    def _refuse(self, what: str, expected: Any, found: Any, **fields: Any) -> NoReturn:
        raise DatasetError.mismatch(self._folder, what, expected, found, **fields)

    def _write(self, last):
        """Writes a chunk of the waiting samples."""
        label, dense, *ids = (pending.rows for pending in self._pending)
        columns = self._source.table_columns
        bounds = {table: pending.rows[:, 0] for table, pending in self._boundaries.items()}
        chunk = Chunk(self._written, label[:, 0], dense, ids, bounds, last)
        check_labels(chunk, self._folder)
        check_ids(chunk, columns, self._source.vocab_sizes)
        encoded = self._encoding.encode(chunk)
        block = self._written // CHUNK_SAMPLES
        for index, offset in enumerate(self._encoding.positions(chunk, encoded)):
            self._digests[index].add(block, encoded[index])
            if encoded[index].size:  # Lists may have no ids.
                self._output.write(index, encoded[index], offset)
        self._written += self._waiting
        self._waiting = 0
        for pending in self._pending:
            pending.clear()
        for table, pending in self._boundaries.items():
            end = bounds[table][-1:, None].copy()
            pending.clear()
            pending.append(end)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        with self._stack:
            if error is None:
                self._finish()

    def _finish(self):
        if not self._waiting:
            self._refuse("samples", "at least 1", 0)
        self._write(last=True)
        self._target.begin_replacing(self._claim)
        self._output.commit()
        self._target.remove_superseded(self._claim)
        hotness = [self._longest.get(t, ids) for t, ids in enumerate(self._bags.hotness)]
        bags = Bags(tuple(hotness), self._bags.pooling, self._bags.variable)
        source = dataclasses.replace(self._source, samples=self._written).with_bags(bags)
        encoding = encode.encoding(source, self._encoding.layout)
        self._target.finish(source, encoding, self._digests)


class _PendingRows:
    """Rows [n, width] that are appended in parts and removed together. It keeps their memory."""

    def __init__(self, width, dtype):
        self._memory = np.empty((0, width), dtype)
        self._count = 0

    @property
    def rows(self):
        """The rows; other rows overwrite them after `clear`."""
        return self._memory[: self._count]

    def append(self, rows):
        """Appends rows, converted to the dtype."""
        self.extend(len(rows))[...] = rows

    def extend(self, count):
        """Appends rows without content and returns them."""
        begin, end = self._count, self._count + count
        if end > len(self._memory):
            self._grow(max(end, 2 * len(self._memory)))
        self._count = end
        return self._memory[begin:end]

    def _grow(self, count):
        kept, width, dtype = self.rows, self._memory.shape[1], self._memory.dtype
        memory = page_aligned(count * width * dtype.itemsize)
        self._memory = np.frombuffer(memory, dtype, count * width).reshape(count, width)
        self._memory[: self._count] = kept

    def clear(self):
        """Removes all rows."""
        self._count = 0
