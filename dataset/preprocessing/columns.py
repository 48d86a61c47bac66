"""The columns of a Criteo line, and one batch of decoded samples."""

from __future__ import annotations

import dataclasses

import numpy as np

DENSE = 13
CATEGORICAL = 26
#: A categorical value has at most eight hexadecimal digits: 32 bits.
HEX_DIGITS = 8
FIELDS = 1 + DENSE + CATEGORICAL
LABEL_NAME = "label"
DENSE_NAMES = tuple(f"I{i + 1}" for i in range(DENSE))
CATEGORICAL_NAMES = tuple(f"C{i + 1}" for i in range(CATEGORICAL))
NAMES = (LABEL_NAME, *DENSE_NAMES, *CATEGORICAL_NAMES)
#: Columns with a sample's position: number of its part, row within the part (both from 0).
PART_NAME = "part_id"
ROW_NAME = "row_id"


@dataclasses.dataclass
class Samples:
    """Decoded samples, in the order of their lines.

    Attributes:
        label: int32 [n], 0 or 1.
        dense: int32 [13, n], 0 where missing; negative values are kept.
        dense_present: bool [13, n].
        values: uint32 [26, n], the categorical values, 0 where missing.
        present: bool [26, n].
    """

    label: np.ndarray
    dense: np.ndarray
    dense_present: np.ndarray
    values: np.ndarray
    present: np.ndarray

    @classmethod
    def empty(cls, n: int) -> Samples:
        """Returns uninitialised arrays for `n` samples."""
        return cls(
            np.empty(n, np.int32),
            np.empty((DENSE, n), np.int32),
            np.empty((DENSE, n), bool),
            np.empty((CATEGORICAL, n), np.uint32),
            np.empty((CATEGORICAL, n), bool),
        )

    def __getitem__(self, rows: slice | np.ndarray) -> Samples:
        """Returns the samples in a slice, as views, or those where bool [n] `rows` is set."""
        return Samples(*(getattr(self, f.name)[..., rows] for f in dataclasses.fields(self)))

    def __len__(self):
        return self.label.size
