"""What a dataset is: a list of columns, each (file, byte offset, dtype, width, transform).

Every layout on disk becomes one `DatasetDescription`; readers, checks and converters know nothing
else. Nothing here touches a file.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dataset.errors import DatasetError

LABEL = "label"
DENSE = "dense"
CATEGORICAL = "categorical"

#: Dense transforms by name: what is added before the natural logarithm (None: stored as used).
TRANSFORMS = {"none": None, "log(x+1)": 1.0, "log(x+3)": 3.0}

#: Stored dtypes that each kind of column may have (little endian on disk).
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
        samples: how many samples lie here.
    """

    path: str
    offset: int
    samples: int


@dataclasses.dataclass(frozen=True)
class Column:
    """Values of `width` neighbours per sample, in one file or several in a row.

    Attributes:
        kind: `LABEL`, `DENSE` or `CATEGORICAL`.
        segments: where the samples lie, in sample order.
        dtype: stored dtype by NumPy name.
        width: values per sample.
        stride: bytes from one sample to the next.
        first_table: index of the first table (categorical columns only).
        transform: a name from `TRANSFORMS`, still to be applied to the stored values.
        applied: a name from `TRANSFORMS`, what dense values went through before they were stored;
            None: the data does not say.
    """

    kind: str
    segments: tuple[Segment, ...]
    dtype: str
    width: int
    stride: int
    first_table: int = 0
    transform: str = "none"
    applied: str | None = None

    @property
    def samples(self) -> int:
        """How many samples the column holds."""
        return sum(segment.samples for segment in self.segments)

    @property
    def tables(self) -> range:
        """Indices of the tables whose ids are in this column."""
        return range(self.first_table, self.first_table + self.width)

    @property
    def bytes_per_sample(self) -> int:
        """Stored bytes of one sample's values."""
        return self.width * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class DatasetDescription:
    """One split (train or test) of a dataset.

    Attributes:
        path: the folder or raw file it was opened from.
        layout: name of the layout on disk (see `dataset.layouts`).
        samples: number of samples.
        vocab_sizes: rows of each table, [T].
        columns: `Column`s: one label, one dense, then the categorical ones in table order.
        fingerprint: names the content; equal fingerprints mean equal data.
        attainable_auc: AUC of the true probabilities on this split, where a generator stored it.
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
            raise DatasetError(
                f"{self.path}: {len(self.vocab_sizes)} vocabulary sizes for "
                f"{len(tables)} categorical features: both must be the same number"
            )
        for column in self.columns:
            check_dtype(column.kind, column.dtype, self.path)
            check_transform(column.transform, self.path)
            if column.applied is not None:
                check_transform(column.applied, self.path)
        if self.applied_transform not in (None, "none") and self.dense_transform != "none":
            raise DatasetError(
                f"{self.path}: dense values are stored as {self.applied_transform} of counts: "
                f"{self.dense_transform} cannot be applied to them again"
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
    def dense_features(self) -> int:
        """Dense features per sample."""
        return self.dense_column.width

    @property
    def dense_transform(self) -> str:
        """Name of the transform that the reader applies to the stored dense values."""
        return self.dense_column.transform

    @property
    def applied_transform(self) -> str | None:
        """Name of the transform that stored dense values have been through, None if unknown."""
        column = self.dense_column
        if column.applied is not None:
            return column.applied
        # Integers, and what the reader takes logarithms of, are counts.
        return "none" if column.dtype == "int32" or column.transform != "none" else None

    @property
    def effective_transform(self) -> str | None:
        """Name of the transform from counts to what a model gets, None if unknown.

        What was applied before the values were stored, or else what the reader applies.
        """
        return self.applied_transform if self.dense_transform == "none" else self.dense_transform

    @property
    def bytes_per_sample(self) -> int:
        """Stored bytes of one sample over all columns."""
        return sum(column.bytes_per_sample for column in self.columns)

    def _of_kind(self, kind):
        return tuple(column for column in self.columns if column.kind == kind)


def check_dtype(kind: str, dtype: str, where: str) -> None:
    """Raises `DatasetError` for a stored dtype that a column of this kind cannot have."""
    if dtype not in STORED_DTYPES[kind]:
        raise DatasetError(
            f"{where}: unknown dtype {dtype!r} of a {kind} column: expected one of "
            f"{', '.join(STORED_DTYPES[kind])}"
        )


def check_transform(name: str, where: str) -> None:
    """Raises `DatasetError` where `name` is not a known dense transform."""
    if name not in tuple(TRANSFORMS):
        raise DatasetError(
            f"{where}: unknown dense transform {name!r}: expected one of {', '.join(TRANSFORMS)}"
        )


#: Every float16 by its bits, as float32: looking them up is several times faster than NumPy's cast.
_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def as_float32(values: np.ndarray) -> np.ndarray:
    """Returns stored dense values as a new float32 array."""
    if values.dtype == np.float16:
        # Every index lies in the table: "wrap" saves take the check and a copy of the result.
        return _HALVES.take(values.view(np.uint16), mode="wrap")
    return values.astype(np.float32)


def apply_transform(values: np.ndarray, transform: str) -> np.ndarray:
    """Returns dense values [n, width] as float32, transformed as the reader would.

    A logarithm of a value that is not positive comes out as NaN or -inf, which every caller
    refuses (`dataset.chunks.transformed_dense`).
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

    The limits are those of the published split scripts: int8 below 127 rows, int16 below 32,767.
    """
    if vocab_size < 127:
        return "int8"
    return "int16" if vocab_size < 32767 else "int32"
