"""The description of a dataset: a list of columns (file, byte offset, dtype, width, transform).

Every layout on disk becomes a `DatasetDescription`; readers, checks and converters use only that.
Nothing here accesses a file.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dataset.errors import DatasetError
from ops.bags import Bags

LABEL = "label"
DENSE = "dense"
CATEGORICAL = "categorical"

#: Dense transforms by name: the number added before the natural logarithm; None for no logarithm.
TRANSFORMS = {"none": None, "log(x+1)": 1.0, "log(x+3)": 3.0}

#: Stored dtypes allowed for each kind of column (little-endian on disk).
STORED_DTYPES = {
    LABEL: ("bool", "int8", "uint8", "int32", "float32"),
    DENSE: ("float16", "float32", "int32"),
    CATEGORICAL: ("int8", "uint8", "int16", "int32"),
}


@dataclasses.dataclass(frozen=True)
class Segment:
    """A run of consecutive samples of a column in one file.

    Attributes:
        path: the file.
        offset: byte offset of the first sample's first value.
        samples: number of samples.
    """

    path: str
    offset: int
    samples: int


@dataclasses.dataclass(frozen=True)
class Column:
    """`width` adjacent values per sample, in one file or several consecutive ones.

    Attributes:
        kind: `LABEL`, `DENSE` or `CATEGORICAL`.
        segments: the parts of files that hold the samples, in sample order.
        dtype: stored dtype by NumPy name.
        width: values per sample.
        stride: bytes from one sample to the next.
        first_table: index of the first table (categorical columns only).
        transform: name in `TRANSFORMS` of what the reader applies to the stored values.
        applied: name in `TRANSFORMS` of what was applied before dense values were stored; None if
            the data does not record it.
        bags: of a categorical column: its `width` values are the slots of these features, of which
            the first has table `first_table`. None: one id for each of `width` tables.
        offsets: of a column with one variable feature: the files of the bags' boundaries, int64
            [samples + 1] in each segment, the first 0, counted in values of that segment. Such a
            column has width 1, and `segments[i].samples` is the number of values in the segment,
            `offsets[i].samples` that of samples.
    """

    kind: str
    segments: tuple[Segment, ...]
    dtype: str
    width: int
    stride: int
    first_table: int = 0
    transform: str = "none"
    applied: str | None = None
    bags: Bags | None = None
    offsets: tuple[Segment, ...] = ()

    @property
    def samples(self) -> int:
        """Number of samples in the column."""
        return sum(segment.samples for segment in self.offsets or self.segments)

    @property
    def features(self) -> Bags:
        """The slots of a categorical column's features."""
        return Bags.one_hot(self.width) if self.bags is None else self.bags

    @property
    def tables(self) -> range:
        """Indices of the tables whose ids are in this column."""
        return range(self.first_table, self.first_table + self.features.features)

    @property
    def bytes_per_sample(self) -> int:
        """Stored bytes of one sample's values; the rounded mean of a variable feature."""
        size = self.width * np.dtype(self.dtype).itemsize
        if not self.offsets:
            return size
        values = sum(segment.samples for segment in self.segments)
        return 8 + round(values * size / max(1, self.samples))


@dataclasses.dataclass(frozen=True)
class DatasetDescription:
    """One split (train or test) of a dataset.

    Attributes:
        path: the folder or raw file.
        layout: name of the layout on disk (see `dataset.layouts`).
        samples: number of samples.
        vocab_sizes: rows of each table, [T].
        columns: one label column, one dense column, then the categorical ones in table order.
        fingerprint: identifies the content: equal fingerprints mean equal data.
        attainable_auc: AUC of the true label probabilities, if a generator recorded it.
    """

    path: str
    layout: str
    samples: int
    vocab_sizes: list[int]
    columns: tuple[Column, ...]
    fingerprint: str
    attainable_auc: float | None = None

    def __post_init__(self):
        tables = [table for column in self.table_columns for table in column.tables]
        if tables != list(range(len(self.vocab_sizes))):
            what = "vocabulary sizes, one per categorical feature"
            raise DatasetError.mismatch(self.path, what, len(tables), len(self.vocab_sizes))
        for column in self.table_columns:
            slots = 1 if column.offsets else column.features.slots
            if column.width != slots:
                what = f"width of the column of table {column.first_table}"
                raise DatasetError.mismatch(self.path, what, slots, column.width)
        for column in self.columns:
            check_dtype(column.kind, column.dtype, self.path)
            check_transform(column.transform, self.path)
            if column.applied is not None:
                check_transform(column.applied, self.path)
        if self.applied_transform not in (None, "none") and self.dense_transform != "none":
            advice = f": the stored values are {self.applied_transform} of counts"
            raise DatasetError.mismatch(
                self.path, "dense transform", "none", self.dense_transform, advice
            )

    @property
    def label_column(self) -> Column:
        """The label's `Column`."""
        return self._of_kind(LABEL)[0]

    @property
    def dense_column(self) -> Column:
        """The dense features' `Column`."""
        return self._of_kind(DENSE)[0]

    @property
    def table_columns(self) -> tuple[Column, ...]:
        """The categorical `Column`s in table order."""
        return self._of_kind(CATEGORICAL)

    @property
    def bags(self) -> Bags:
        """The slots of all features, in table order."""
        return Bags.joined(column.features for column in self.table_columns)

    @property
    def dense_features(self) -> int:
        """Dense features per sample."""
        return self.dense_column.width

    @property
    def dense_transform(self) -> str:
        """Name of the transform that the reader applies to the stored dense values."""
        return self.dense_column.transform

    @property
    def applied_transform(self) -> str | None:
        """Name of the transform applied before the dense values were stored, None if unknown."""
        column = self.dense_column
        if column.applied is not None:
            return column.applied
        # Integers are counts, and so are values of which the reader takes logarithms.
        return "none" if column.dtype == "int32" or column.transform != "none" else None

    @property
    def effective_transform(self) -> str | None:
        """Name of the transform from counts to model inputs, None if unknown.

        This is the reader's transform or, if that is "none", the one applied before storing.
        """
        return self.applied_transform if self.dense_transform == "none" else self.dense_transform

    @property
    def bytes_per_sample(self) -> int:
        """Stored bytes of one sample over all columns."""
        return sum(column.bytes_per_sample for column in self.columns)

    def with_bags(self, bags: Bags) -> DatasetDescription:
        """Returns the description with other pooling, or other hotness of variable features."""
        if bags == self.bags:
            return self
        columns = tuple(
            dataclasses.replace(column, bags=bags.select(column.tables))
            if column.kind == CATEGORICAL
            else column
            for column in self.columns
        )
        return dataclasses.replace(self, columns=columns)

    def _of_kind(self, kind):
        return tuple(column for column in self.columns if column.kind == kind)


def check_dtype(kind: str, dtype: str, where: str) -> None:
    """Raises `DatasetError` if a column of this kind cannot have the stored dtype."""
    if dtype not in STORED_DTYPES[kind]:
        what = f"dtype of a {kind} column"
        raise DatasetError.mismatch(where, what, STORED_DTYPES[kind], dtype)


def check_transform(name: str, where: str) -> None:
    """Raises `DatasetError` if `name` is not in `TRANSFORMS`."""
    if name not in tuple(TRANSFORMS):
        raise DatasetError.mismatch(where, "dense transform", tuple(TRANSFORMS), name)


#: Every float16 as float32, by its bits: a lookup is several times faster than NumPy's cast.
_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def as_float32(values: np.ndarray) -> np.ndarray:
    """Returns stored dense values as a new float32 array."""
    if values.dtype == np.float16:
        # Every index is valid: mode "wrap" avoids take's check and a copy of the result.
        return _HALVES.take(values.view(np.uint16), mode="wrap")
    return values.astype(np.float32)


def apply_transform(values: np.ndarray, transform: str) -> np.ndarray:
    """Returns dense values [n, width] as float32, transformed as by the reader.

    The logarithm of a value that is not positive is NaN or -inf; every caller refuses these
    (`dataset.chunks.transformed_dense`).
    """
    shift = TRANSFORMS[transform]
    values = as_float32(values)
    if shift is None:
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        values += np.float32(shift)
        return np.log(values, out=values)


def narrow_dtype(vocab_size: int) -> str:
    """Returns the stored id dtype of the per-table layout for a table of `vocab_size` rows.

    As in the published split scripts: int8 below 127 rows, int16 below 32,767, else int32.
    """
    if vocab_size < 127:
        return "int8"
    return "int16" if vocab_size < 32767 else "int32"
