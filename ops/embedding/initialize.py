"""Initial values of embedding tables, written in place: no second copy of a 90 GiB table."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ops import loader


def create_table(rows: int, dimension: int, name: str = "embedding") -> tf.Variable:
    """Creates a float32 variable [rows, dimension] without touching its memory.

    The values are undefined until ``embedding_initialize`` (or a restore) writes them. The
    operating system allocates pages on first write.

    Args:
        rows: rows of all tables in the variable.
        dimension: elements per row.
        name: name of the variable.

    Raises:
        ValueError: rows < 0 or dimension < 1.
    """
    if rows < 0 or dimension < 1:
        raise ValueError(f"expected rows >= 0 and dimension >= 1, got {rows} and {dimension}")
    # The variable takes over the buffer of the tensor, which has no other owner.
    return tf.Variable(
        tf.raw_ops.Empty(shape=[rows, dimension], dtype=tf.float32, init=False),
        name=name,
        trainable=False,
    )


def write_rows(variable: tf.Variable, begin: int, values: Any) -> None:
    """Overwrites rows [begin, begin + n) of a variable, in place.

    `variable[begin:end].assign(values)` would copy the complete variable on each call, because it
    holds a reader of it.

    Args:
        variable: float32 variable [rows, ...].
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
    """Fills the rows of one table, or of one rank's part of it, with U[-limit, limit), in place.

    A value depends only on ``seed``, ``table_index``, the row's number in its table and the column,
    so it is the same for any number of ranks and any placement: Philox4x32-10 with
    key = seed (low word, high word) and counter = (row low, row high, column // 4, table_index);
    word ``column % 4`` of its output, w, gives ``limit * ((w >> 8) * 2**-23 - 1)``.

    Args:
        table: float32 variable [rows of all tables, D], e.g. from ``create_table``.
        base_row: row of the variable where the part begins.
        rows: number of rows to fill.
        table_index: index of the table, the same on every rank.
        seed: 64-bit integer.
        limit: half the width of the interval; sqrt(1 / rows of the complete table) for DLRM.
        first_row: number of the part's first row within its table.
        row_stride: distance of consecutive rows of the part within the table. With rows partitioned
            over N ranks, rank r has first_row = r and row_stride = N.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        tf.errors.InvalidArgumentError: the rows are not within the variable.
        tf.errors.FailedPreconditionError: a value read from the variable is still in use.
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
