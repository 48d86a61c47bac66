"""Changes and compares the transforms of dense values that descriptions record."""

from __future__ import annotations

import dataclasses

from dataset.columns import DENSE, TRANSFORMS, DatasetDescription
from dataset.errors import DatasetError

#: Help text of the flag `--applied_transform`.
APPLIED_HELP = (
    "transform applied before the dense values were stored, for data that does not record it "
    "(docs/data.md); none means counts"
)


def with_transform(description: DatasetDescription, transform: str) -> DatasetDescription:
    """Returns a description whose reader applies another dense transform to the stored counts.

    Raises:
        DatasetError: the stored values are not counts, or may not be.
    """
    applied = description.applied_transform
    if transform == description.dense_transform:
        return description
    if applied is None:
        raise DatasetError(
            f"{description.path}: dense transform {transform}: expected stored counts, found "
            f"{description.dense_column.dtype} values with an unknown transform; if they are "
            "counts, give --applied_transform none",
            flag="applied_transform",
            path=description.path,
            expected="none",
        )
    if applied != "none":
        raise DatasetError(
            f"{description.path}: dense transform {transform}: expected stored counts, found "
            f"{applied} of counts; leave --dense_transform out",
            flag="dense_transform",
            path=description.path,
            expected="none",
            found=applied,
        )
    return _with_dense(description, transform=transform)


def with_applied(description: DatasetDescription, applied: str | None) -> DatasetDescription:
    """Returns a description that records the transform applied before storing.

    Args:
        description: a split.
        applied: a name in `TRANSFORMS`; None changes nothing.

    Raises:
        DatasetError: the split records another transform.
    """
    found = description.applied_transform
    if applied is None or applied == found:
        return description
    if found is not None:
        dense = description.dense_column
        raise DatasetError(
            f"{description.path}: --applied_transform: expected {found}, which the data records "
            f"({dense.dtype}, read with {dense.transform}), found {applied}; leave the flag out",
            flag="applied_transform",
            path=description.path,
            expected=found,
            found=applied,
        )
    return _with_dense(description, applied=applied)


def transform_text(description: DatasetDescription) -> str:
    """Returns the transform from counts to model inputs as text for a message."""
    if description.effective_transform is None:
        return "unknown (stored)"
    stored = description.applied_transform != "none"
    return description.effective_transform + (" (stored)" if stored else "")


def unknown_transform_message(where: str) -> str:
    """Returns the warning for data that does not record the transform of its dense values."""
    return (
        f"{where}: the data does not record the transform of its dense values, so checkpoints and "
        "exported models will not record it either; give --applied_transform, one of "
        f"{', '.join(TRANSFORMS)}"
    )


def check_same(train: DatasetDescription, test: DatasetDescription, where: str) -> None:
    """Raises `DatasetError` unless train and test have the same transform from counts to inputs."""
    expected, found = train.effective_transform, test.effective_transform
    if expected == found:
        return
    hint = ""
    if None in (expected, found):
        hint = f"; give --applied_transform, one of {', '.join(TRANSFORMS)}"
    raise DatasetError(
        f"{where}: train and test differ in dense_transform: expected {transform_text(train)} as "
        f"in train, found {transform_text(test)} in test{hint}",
        flag="applied_transform" if hint else None,
        path=where,
        expected=expected,
        found=found,
    )


def _with_dense(description, **changes):
    columns = tuple(
        dataclasses.replace(column, **changes) if column.kind == DENSE else column
        for column in description.columns
    )
    return dataclasses.replace(description, columns=columns)
