"""Python faces of the native lookup and updates."""

import tensorflow as tf

from ops import loader

_VECTOR_DTYPES = (tf.float32, tf.bfloat16, tf.float16)
_ID_DTYPES = (tf.int32, tf.int64)


def embedding_lookup(table, ids, base_rows, table_rows, dtype=tf.float32, name=None):
    """Looks the rows of all tables up in one pass; reads the variable where it lies.

    No gradient flows through it: watch the result, and hand its gradient to an update.

    Args:
        table: float32 variable [rows, D].
        ids: [B, T], int32 or int64, each in [0, table_rows[t]).
        base_rows: [T] int64, row of the variable where each table starts.
        table_rows: [T] int64, rows of each table.
        dtype: of the result: float32, bfloat16 or float16.
        name: of the op.

    Returns:
        [B, T, D] of ``dtype``: row ``base_rows[t] + ids[b, t]`` for sample b, table t, rounded to
        nearest.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not there.
        TypeError: a type is not supported.
        tf.errors.InvalidArgumentError: an id is out of range (the message names table, sample, id
            and bound), or a shape does not fit.
    """
    ops = loader.load()
    ids = _check_ids(ids)
    return ops.dlrm_embedding_lookup(
        table=_handle(table, "table"),
        ids=ids,
        base_rows=base_rows,
        table_rows=table_rows,
        dtype=_check_vector_dtype(tf.as_dtype(dtype)),
        name=name,
    )


def embedding_update_sgd(
    table,
    ids,
    gradients,
    base_rows,
    table_rows,
    learning_rate,
    scale=1.0,
    deterministic=True,
    name=None,
):
    """Stochastic gradient descent on the rows that a batch looked up, in place.

    Each id in turn, samples in order, tables in order: ``row -= (learning_rate * scale) * g`` with
    g its gradient, in float32, rounded after each operation. The result is that sequential loop's,
    bit for bit, for any number of threads. If any id is out of range nothing is written.

    Args:
        table: float32 variable [rows, D].
        ids: [B, T], int32 or int64.
        gradients: [B, T, D], float32, bfloat16 or float16.
        base_rows: [T] int64.
        table_rows: [T] int64.
        learning_rate: scalar.
        scale: scalar that multiplies the gradients, e.g. 1 / (ranks * loss scale).
        deterministic: False lets a GPU add duplicates in any order (faster); CPUs always keep it.
        name: of the op.

    Returns:
        The op in a graph, None in eager execution.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not there.
        TypeError: a type is not supported.
        tf.errors.InvalidArgumentError: an id is out of range, or a shape does not fit.
    """
    ops = loader.load()
    ids = _check_ids(ids)
    gradients = tf.convert_to_tensor(gradients)
    _check_vector_dtype(gradients.dtype)
    return ops.dlrm_embedding_update_sgd(
        table=_handle(table, "table"),
        ids=ids,
        gradients=gradients,
        base_rows=base_rows,
        table_rows=table_rows,
        learning_rate=tf.cast(learning_rate, tf.float32),
        scale=tf.cast(scale, tf.float32),
        deterministic=deterministic,
        name=name,
    )


def embedding_update_adagrad(
    table,
    accumulator,
    ids,
    gradients,
    base_rows,
    table_rows,
    learning_rate,
    scale=1.0,
    epsilon=1e-8,
    deterministic=True,
    name=None,
):
    """Adagrad on the rows that a batch looked up, in place.

    With g = ``scale`` times the sum of the gradients of one row in this batch (added in the order
    of the samples, in float32), once for each row that occurs:

        accumulator += g * g                (or mean(g * g) over the row when it is row-wise)
        row -= learning_rate * g / (sqrt(accumulator) + epsilon)

    Duchi, Hazan and Singer, JMLR 12 (2011); duplicates are summed before the square, as sparse
    Adagrad in TensorFlow and PyTorch does it; row-wise as in FBGEMM's ``EXACT_ROWWISE_ADAGRAD``.
    If any id is out of range nothing is written.

    Args:
        table: float32 variable [rows, D].
        accumulator: float32 variable, [rows, D], or [rows] for row-wise Adagrad.
        ids: [B, T], int32 or int64.
        gradients: [B, T, D], float32, bfloat16 or float16.
        base_rows: [T] int64.
        table_rows: [T] int64.
        learning_rate: scalar.
        scale: scalar that multiplies the gradients.
        epsilon: Python float.
        deterministic: False lets a GPU add duplicates in any order (faster); CPUs always keep it.
        name: of the op.

    Returns:
        The op in a graph, None in eager execution.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not there.
        TypeError: a type is not supported.
        tf.errors.InvalidArgumentError: an id is out of range, or a shape does not fit.
    """
    ops = loader.load()
    ids = _check_ids(ids)
    gradients = tf.convert_to_tensor(gradients)
    _check_vector_dtype(gradients.dtype)
    return ops.dlrm_embedding_update_adagrad(
        table=_handle(table, "table"),
        accumulator=_handle(accumulator, "accumulator"),
        ids=ids,
        gradients=gradients,
        base_rows=base_rows,
        table_rows=table_rows,
        learning_rate=tf.cast(learning_rate, tf.float32),
        scale=tf.cast(scale, tf.float32),
        epsilon=epsilon,
        deterministic=deterministic,
        name=name,
    )


def advise_huge_pages(table):
    """Has the operating system back a variable's memory with huge pages (Linux, CPUs alone).

    A table from ``create_table`` needs no call: ``embedding_initialize`` asks before it writes, so
    the pages are huge from the start. One that was written by other means, a restored one for
    example, lies in small pages: this gathers them (Linux 6.1 and later; at the speed of a copy),
    and asks for the rest. Where the system refuses, nothing changes but speed.
    """
    return loader.load().dlrm_advise_huge_pages(table=_handle(table, "table"))


def _handle(variable, name):
    handle = getattr(variable, "handle", None)
    if handle is None or variable.dtype != tf.float32:
        raise TypeError(f"{name} must be a float32 tf.Variable, got {variable!r}")
    return handle


def _check_ids(ids):
    ids = tf.convert_to_tensor(ids)
    if ids.dtype not in _ID_DTYPES:
        raise TypeError(f"ids must be int32 or int64, got {ids.dtype.name}")
    return ids


def _check_vector_dtype(dtype):
    if dtype not in _VECTOR_DTYPES:
        raise TypeError(
            f"embedding vectors are {', '.join(d.name for d in _VECTOR_DTYPES)}; got {dtype.name}"
        )
    return dtype
