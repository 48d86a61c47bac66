"""Initial values of embedding tables, written in place: a 90 GiB table never exists twice."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ops import loader


def create_table(rows: int, dimension: int, name: str = "embedding") -> tf.Variable:
    """Creates a float32 variable [rows, dimension] without touching its memory.

    The values are undefined until ``embedding_initialize`` (or a restore) writes them; pages are
    given out by the operating system as they are first written.

    Args:
        rows: of all tables in the variable together.
        dimension: elements of a row.
        name: of the variable.
    """
    if rows < 0 or dimension < 1:
        raise ValueError(f"expected rows >= 0 and dimension >= 1, got {rows} and {dimension}")
    # The variable takes the tensor's buffer over: the tensor is the only other owner and ends here.
    return tf.Variable(
        tf.raw_ops.Empty(shape=[rows, dimension], dtype=tf.float32, init=False),
        name=name,
        trainable=False,
    )


def write_rows(variable: tf.Variable, begin: int, values: Any) -> None:
    """Overwrites rows [begin, begin + n) of a variable, in place.

    `variable[begin:end].assign(values)` copies the whole variable each time, because it holds a
    read of it meanwhile: twice the memory, and for each piece the time of a whole table.

    Args:
        variable: a float32 variable, [rows, ...].
        begin: the first row.
        values: [n, ...].
    """
    tf.raw_ops.ResourceStridedSliceAssign(
        ref=variable.handle, begin=[begin], end=[begin + len(values)], strides=[1], value=values,
        begin_mask=0, end_mask=0, ellipsis_mask=0, new_axis_mask=0, shrink_axis_mask=0,
    )  # fmt: skip


def embedding_initialize(
    table: tf.Variable,
    base_row: int,
    rows: int,
    table_index: int,
    seed: int,
    limit: float,
    first_row: int = 0,
    row_stride: int = 1,
) -> None:
    """Fills the rows of one table (or of one rank's part of it) with U[-limit, limit), in place.

    The value of (table, row, column) depends on ``seed``, ``table_index``, the row's number in its
    table and the column alone, so it is the same whichever rank owns the row and wherever it lies:
    Philox4x32-10 with key = seed (low word, high word) and counter = (row low, row high,
    column // 4, table_index); word ``column % 4`` of its output, w, gives
    ``limit * ((w >> 8) * 2**-23 - 1)``.

    Args:
        table: float32 variable [rows of all tables, D], e.g. from ``create_table``.
        base_row: row of the variable where the part starts.
        rows: how many rows of the variable to fill.
        table_index: number of the table, the same on every rank.
        seed: 64-bit integer.
        limit: half the width of the interval; sqrt(1 / rows of the whole table) for DLRM.
        first_row: number within its table of the part's first row.
        row_stride: from one row of the part to the next, within its table; with rows dealt out
            over N ranks, rank r has first_row = r and row_stride = N.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not there.
        tf.errors.InvalidArgumentError: the part does not lie within the variable.
        tf.errors.FailedPreconditionError: somebody holds a value read from the variable.
    """
    loader.load().dlrm_embedding_initialize(
        table=table.handle,
        base_row=base_row,
        rows=rows,
        table_index=table_index,
        seed=seed,
        first_row=first_row,
        row_stride=row_stride,
        limit=limit,
    )
