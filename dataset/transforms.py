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
    path, what = description.path, f"dense transform {transform}"
    applied = description.applied_transform
    if transform == description.dense_transform:
        return description
    if applied == "none":
        return _with_dense(description, transform=transform)
    if applied is None:
        found = f"{description.dense_column.dtype} values with an unknown transform"
        flag, advice = "applied_transform", "; if they are counts, give --applied_transform none"
    else:
        found = f"{applied} of counts"
        flag, advice = "dense_transform", "; leave --dense_transform out"
    raise DatasetError.mismatch(path, what, "stored counts", found, advice, flag=flag)


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
        flag = "applied_transform"
        advice = "; the data records the expected one: leave the flag out"
        raise DatasetError.mismatch(
            description.path, f"--{flag}", found, applied, advice, flag=flag
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
    raise DatasetError.of_path(
        where,
        f"train and test differ in dense_transform: expected {transform_text(train)} as in train, "
        f"found {transform_text(test)} in test{hint}",
        flag="applied_transform" if hint else None,
        expected=expected,
        found=found,
    )


def _with_dense(description, **changes):
    columns = tuple(
        dataclasses.replace(column, **changes) if column.kind == DENSE else column
        for column in description.columns
    )
    return dataclasses.replace(description, columns=columns)
