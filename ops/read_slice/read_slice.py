"""Python face of `Dlrm>ReadSlice`."""

import tensorflow as tf

from ops import loader


def read_slice(
    first,
    count,
    *,
    rows,
    columns,
    dtype,
    check="none",
    bounds=(),
    tables=(),
    log_shift=-1.0,
    name=None,
):
    """Reads samples from column files into one tensor.

    Part p of P fills rows p * rows / P onwards with samples first[p] .. first[p] + count[p] - 1;
    the part's rows after those are zero. Files are opened on first use and stay open as long as
    the graph function that holds the op.

    Args:
        first: int64 [P], each part's first sample.
        count: int64 [P], samples to read, at most rows / P.
        rows: rows of the result; P must divide it.
        columns: objects with `segments` (each `path`, byte `offset`, `samples`), stored `dtype`
            (bool, int8, uint8, int16, int32, float16 or float32), `width` (values per sample) and
            `stride` (bytes from sample to sample). Their values stand side by side.
        dtype: tf.float32 or tf.int32.
        check: "finite" or "binary" (float32), "ids" (int32; needs `bounds`), or "none".
        bounds: for each of the W result columns, what its ids must stay below.
        tables: for each of them, the table's number, for the message about a bad id.
        log_shift: where not negative, the result is log(value + log_shift).
        name: name of the op.

    Returns:
        `dtype` [rows, W], W the sum of the columns' widths.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        tf.errors.NotFoundError: a file is missing, or was removed or replaced since it was opened.
        tf.errors.PermissionDeniedError: a file may not be read.
        tf.errors.DataLossError: a file is too short, or could not be read.
        tf.errors.InvalidArgumentError: a value did not pass the check.
    """
    segments = [segment for column in columns for segment in column.segments]
    return loader.load().dlrm_read_slice(
        first=tf.convert_to_tensor(first, tf.int64),
        count=tf.convert_to_tensor(count, tf.int64),
        T=dtype,
        rows=rows,
        filenames=[segment.path for segment in segments],
        offsets=[segment.offset for segment in segments],
        samples=[segment.samples for segment in segments],
        segments=[len(column.segments) for column in columns],
        stored=[tf.as_dtype(column.dtype) for column in columns],
        widths=[column.width for column in columns],
        strides=[column.stride for column in columns],
        check=check,
        bounds=list(bounds),
        tables=list(tables),
        log_shift=log_shift,
        name=name,
    )
