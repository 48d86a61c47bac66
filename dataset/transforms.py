"""What is said of a split's dense values by hand: what was applied, and what the reader applies."""

from __future__ import annotations

import dataclasses

from dataset.columns import DENSE, TRANSFORMS, DatasetDescription
from dataset.errors import DatasetError

#: What `--applied_transform` means, for the help of each tool that has it.
APPLIED_HELP = (
    "transform already applied to the stored dense values, for data that does not record it "
    "(docs/data.md); none: the values are counts"
)


def with_transform(description: DatasetDescription, transform: str) -> DatasetDescription:
    """Returns a description whose stored counts are read with another dense transform.

    Raises:
        DatasetError: the dense values are stored transformed, so that there is nothing to choose,
            or may be.
    """
    applied = description.applied_transform
    if transform == description.dense_transform:
        return description
    if applied is None:
        raise DatasetError(
            f"{description.path}: {transform} can only be applied to counts: it is not recorded "
            f"whether the stored {description.dense_column.dtype} values are counts or "
            "transformed; if they are counts, give --applied_transform none"
        )
    if applied != "none":
        raise DatasetError(
            f"{description.path}: dense values are stored transformed ({applied}): {transform} "
            "cannot be applied to them"
        )
    return _with_dense(description, transform=transform)


def with_applied(description: DatasetDescription, applied: str | None) -> DatasetDescription:
    """Returns a description that says what its stored dense values have been through.

    Args:
        description: a split.
        applied: a name from `TRANSFORMS`; None says nothing.

    Raises:
        DatasetError: the split says otherwise itself.
    """
    found = description.applied_transform
    if applied is None or applied == found:
        return description
    if found is not None:
        dense = description.dense_column
        stored = "counts" if found == "none" else f"{found} of counts"
        raise DatasetError(
            f"{description.path}: --applied_transform={applied} contradicts the data, whose dense "
            f"values are stored as {stored} ({dense.dtype}, the reader applies {dense.transform}): "
            "leave the flag out"
        )
    return _with_dense(description, applied=applied)


def transform_text(description: DatasetDescription) -> str:
    """Returns in words which transform a model gets dense values through."""
    if description.effective_transform is None:
        return "stored, transform not recorded"
    stored = description.applied_transform != "none"
    return description.effective_transform + (" (stored)" if stored else "")


def not_recorded(where: str) -> str:
    """Returns the line about a split of which nobody says what its values have been through."""
    return (
        f"{where}: it is not recorded which transform the stored dense values have been through, "
        "so checkpoints and exported models cannot say what counts need; state it with "
        f"--applied_transform, one of {', '.join(TRANSFORMS)}"
    )


def check_same(train: DatasetDescription, test: DatasetDescription, where: str) -> None:
    """Raises `DatasetError` unless train and test give a model the same transform of counts."""
    ours, theirs = train.effective_transform, test.effective_transform
    if ours == theirs:
        return
    hint = ""
    if None in (ours, theirs):
        hint = f"; state it with --applied_transform, one of {', '.join(TRANSFORMS)}"
    raise DatasetError(
        f"{where}: train and test differ in dense_transform: {transform_text(train)} in train, "
        f"{transform_text(test)} in test{hint}"
    )


def _with_dense(description, **changes):
    columns = tuple(
        dataclasses.replace(column, **changes) if column.kind == DENSE else column
        for column in description.columns
    )
    return dataclasses.replace(description, columns=columns)
