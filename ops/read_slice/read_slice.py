"""Python wrapper of `Dlrm>ReadSlice`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import tensorflow as tf

from ops import loader


class Segment(Protocol):
    """Consecutive samples of a column in one file.

    Attributes:
        path: path of the file.
        offset: byte offset of the first sample.
        samples: number of samples.
    """

    @property
    def path(self) -> str: ...  # noqa: D102

    @property
    def offset(self) -> int: ...  # noqa: D102

    @property
    def samples(self) -> int: ...  # noqa: D102


class Column(Protocol):
    """The location of a column of samples in files.

    Attributes:
        segments: its `Segment`s, in the order of the samples.
        dtype: stored type: bool, int8, uint8, int16, int32, float16 or float32.
        width: values per sample.
        stride: bytes from one sample to the next.
        offsets: for lists of varying length, one `Segment` for each of `segments`: where each list
            begins, int64 [samples + 1], in values of the segment. `width` is then 1, and
            `segments` count values instead of samples.
    """

    @property
    def segments(self) -> Sequence[Segment]: ...  # noqa: D102

    @property
    def dtype(self) -> Any: ...  # noqa: D102

    @property
    def width(self) -> int: ...  # noqa: D102

    @property
    def stride(self) -> int: ...  # noqa: D102

    @property
    def offsets(self) -> Sequence[Segment]: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class IdCheck:
    """Checks that ids are within their tables' bounds.

    Attributes:
        bounds: for each of the W result columns, the smallest id that is too large.
        tables: for each result column, the table index for error messages; may be empty.
    """

    bounds: Sequence[int]
    tables: Sequence[int] = ()


def read_slice(
    first: Sequence[int] | tf.Tensor,
    count: Sequence[int] | tf.Tensor,
    *,
    rows: int,
    columns: Sequence[Column],
    dtype: tf.DType,
    check: str | IdCheck = "none",
    log_shift: float = -1.0,
    slots: Sequence[int] | None = None,
    name: str | None = None,
) -> tf.Tensor:
    """Reads samples from column files into one tensor.

    Part p of P fills rows p * rows / P onwards with samples first[p] .. first[p] + count[p] - 1;
    the part's remaining rows are zero. Lists of varying length fill the slots of their column from
    the left; `ops.bags.EMPTY` fills the others, and remaining rows. Files are opened on first use
    and stay open as long as the graph function that holds the op.

    Args:
        first: int64 [P], each part's first sample.
        count: int64 [P], samples to read, at most rows / P.
        rows: rows of the result; P must divide it.
        columns: the columns to read; each sample's values are concatenated.
        dtype: tf.float32 or tf.int32.
        check: "finite" or "binary" (float32), an `IdCheck` (int32), or "none".
        log_shift: if not negative, the result is log(value + log_shift).
        slots: values of the result for each column, which for lists is the largest length; default:
            the columns' widths.
        name: name of the op.

    Returns:
        `dtype` [rows, W], W the sum of `slots`.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        tf.errors.NotFoundError: a file is missing, or was removed or replaced since it was opened.
        tf.errors.PermissionDeniedError: read access to a file is denied.
        tf.errors.DataLossError: a file is too short or cannot be read.
        tf.errors.InvalidArgumentError: a value fails the check, or the boundaries of lists are
            invalid; names file, sample and value.
    """
    ids = check if isinstance(check, IdCheck) else IdCheck(())
    segments = [segment for column in columns for segment in column.segments]
    boundaries: list[Segment | None] = []
    for column in columns:
        boundaries += column.offsets or [None] * len(column.segments)
    if not any(boundaries):
        boundaries = []
    op = functools.partial(
        loader.load().dlrm_read_slice,
        first=tf.convert_to_tensor(first, tf.int64),
        count=tf.convert_to_tensor(count, tf.int64),
        T=dtype,
        rows=rows,
        filenames=[segment.path for segment in segments],
        offsets=[segment.offset for segment in segments],
        samples=[segment.samples for segment in segments],
        segments=[len(column.segments) for column in columns],
        stored=[tf.as_dtype(column.dtype) for column in columns],
        widths=[column.width for column in columns] if slots is None else list(slots),
        boundary_filenames=[part.path if part else "" for part in boundaries],
        boundary_offsets=[part.offset if part else 0 for part in boundaries],
        boundary_samples=[part.samples if part else 0 for part in boundaries],
        strides=[column.stride for column in columns],
        check="ids" if isinstance(check, IdCheck) else check,
        bounds=list(ids.bounds),
        tables=list(ids.tables),
        log_shift=log_shift,
        name=name,
    )
    # Eager kernels are cached by a digest of the attributes that is the same for different long
    # file names: the second call would read the first call's files.
    return tf.function(op)() if tf.executing_eagerly() else op()
