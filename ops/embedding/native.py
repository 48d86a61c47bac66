"""Python wrappers of the native lookup and update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from ops import loader
from ops.bags import Bags

_VECTOR_DTYPES = (tf.float32, tf.bfloat16, tf.float16)
_ID_DTYPES = (tf.int32, tf.int64)


class RowIds(NamedTuple):
    """The rows of a variable that a batch refers to.

    Attributes:
        ids: [B, T], int32 or int64, each in [0, table_rows[t]). With `bags`: [B, W], and `EMPTY` in
            the empty slots of variable features. With `offsets`: [n], of a single table (T = 1).
        base_rows: [T] int64, first row of each table in the variable; read in host memory.
        table_rows: [T] int64, number of rows of each table; read in host memory.
        bags: several ids per sample and table; None or one-hot: one each.
        offsets: int32 [B + 1]: bag b is ids[offsets[b] : offsets[b + 1]], summed. Not with `bags`.
    """

    ids: Any
    base_rows: Any
    table_rows: Any
    bags: Bags | None = None
    offsets: Any = None

    @property
    def has_bags(self) -> bool:
        """Whether a sample may have other than one id for a table.

        Raises:
            ValueError: there are both bags and offsets.
        """
        if self.offsets is None:
            return self.bags is not None and not self.bags.is_one_hot
        if self.bags is not None:
            raise ValueError("embedding: expected bags or offsets, found both")
        return True


class RowRule(NamedTuple):
    """How gradients change rows.

    Attributes:
        optimizer: name of a rule in row_optimizers.h: sgd, adagrad, rowwise_adagrad or ftrl.
        hyperparameters: (epsilon,) for both Adagrads, (l1, l2, beta) for ftrl, () for sgd.
        deterministic: False lets a GPU add the gradients of SGD in any order (faster). CPUs and
            the other rules always keep the order of the batch.
    """

    optimizer: str = "sgd"
    hyperparameters: tuple[float, ...] = ()
    deterministic: bool = True


SGD = RowRule()


def embedding_lookup(
    table: tf.Variable,
    where: RowIds,
    dtype: Any = tf.float32,
    side_stream: bool = False,
    name: str | None = None,
) -> tf.Tensor:
    """Looks up rows of all tables in one pass, without copying the variable.

    With bags, the rows of each bag are added in float32 in the order of its ids, and for mean
    pooling multiplied by 1 / the number of ids; an empty bag gives zeros.

    The op has no gradient: watch the result, and pass its gradient to ``embedding_update``.

    Args:
        table: float32 variable [rows, D].
        where: the rows.
        dtype: type of the result: float32, bfloat16 or float16.
        side_stream: a GPU runs the op beside later ones, until
            ``ops.side_stream.join_side_stream``. No effect on a CPU.
        name: name of the op.

    Returns:
        [B, T, D] of ``dtype``: row ``base_rows[t] + ids[b, t]`` for sample b, table t, rounded to
        nearest.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        TypeError: a type is not supported.
        tf.errors.InvalidArgumentError: an id is out of range (the message contains table, sample,
            id and bound), or a shape is wrong.
    """
    ops = loader.load()
    inputs, has_bags = _inputs(where)
    lookup = ops.dlrm_embedding_bag_lookup if has_bags else ops.dlrm_embedding_lookup
    return lookup(
        table=_handle(table, "table"),
        row_type=table.dtype,
        dtype=_check_vector_dtype(tf.as_dtype(dtype)),
        side_stream=side_stream,
        name=name,
        **inputs,
    )


def embedding_update(
    table: tf.Variable,
    states: Sequence[tf.Variable],
    where: RowIds,
    gradients: Any,
    learning_rate: Any,
    scale: Any = 1.0,
    rule: RowRule = SGD,
    side_stream: bool = False,
    name: str | None = None,
) -> tf.Operation | None:
    """Updates the rows that a batch looked up, in place.

    ``sgd`` applies each id's gradient g in turn, by sample, then by table:
    ``row -= (learning_rate * scale) * g`` in float32, rounded after each operation. The result is
    bit for bit that of a sequential loop, for any number of threads.

    The other rules are applied once to each row that occurs, with g = ``scale`` times the sum of
    the row's gradients in this batch (added in the order of the samples, in float32):

    - ``adagrad`` (Duchi, Hazan and Singer, JMLR 12, 2011): ``accumulator += g * g``, then
      ``row -= learning_rate * g / (sqrt(accumulator) + epsilon)``.
    - ``rowwise_adagrad``: the same with ``accumulator += mean(g * g)``, one value per row, as in
      FBGEMM's ``EXACT_ROWWISE_ADAGRAD``.
    - ``ftrl``: FTRL-Proximal (McMahan et al., KDD 2013). ``n = accumulator + g * g``,
      ``z = linear + learning_rate * g - (sqrt(n) - sqrt(accumulator)) * row``, then row = 0 where
      ``|z| <= l1``, else ``(sign(z) * l1 - z) / (sqrt(n) + beta + 2 * l2)``; accumulator = n,
      linear = z. A column with n = 0 keeps its value. At a constant learning rate this is
      TensorFlow's ``ApplyFtrlV2`` with l1 / learning_rate, (l2 + beta / 2) / learning_rate and
      linear / learning_rate.

    With bags, the gradient of a bag is that of each of its ids, repeated ones included, multiplied
    in float32 by 1 / the number of ids for mean pooling; the order is by sample, table, then id.

    If any id is out of range, nothing is written (on a GPU: only the rows of valid ids). A
    ``scale`` of exactly 0 leaves rows and states unchanged, even if gradients are infinite or NaN;
    the ids are still checked.

    Args:
        table: float32 variable [rows, D].
        states: float32 variables of the rule: [] for sgd, [accumulator] for adagrad ([rows, D])
            and rowwise_adagrad ([rows]), [accumulator, linear] for ftrl (both [rows, D]).
        where: the rows.
        gradients: [B, T, D], float32, bfloat16 or float16.
        learning_rate: scalar.
        scale: scalar factor on the gradients, e.g. 1 / (ranks * loss scale).
        rule: the optimizer.
        side_stream: as for `embedding_lookup`.
        name: name of the op.

    Returns:
        The op in a graph, None in eager execution.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        TypeError: a type is not supported.
        tf.errors.InvalidArgumentError: an id is out of range, a shape is wrong, the rule is
            unknown, or the states or hyper-parameters do not match the rule.
        tf.errors.FailedPreconditionError: the table or a state is larger than 1 GiB and its value,
            read earlier, is still in use: a copy might not fit into memory.
    """
    ops = loader.load()
    inputs, has_bags = _inputs(where)
    gradients = tf.convert_to_tensor(gradients)
    _check_vector_dtype(gradients.dtype)
    update = ops.dlrm_embedding_bag_update if has_bags else ops.dlrm_embedding_update
    return update(
        table=_handle(table, "table"),
        states=[_handle(state, "state") for state in states],
        gradients=gradients,
        learning_rate=tf.cast(learning_rate, tf.float32),
        scale=tf.cast(scale, tf.float32),
        row_type=table.dtype,
        optimizer=rule.optimizer,
        hyperparameters=list(rule.hyperparameters),
        deterministic=rule.deterministic,
        side_stream=side_stream,
        name=name,
        **inputs,
    )


def _inputs(where):
    """Returns (arguments of an op that name the rows, whether it is an op for bags)."""
    inputs: dict[str, Any] = {
        "ids": _check_ids(where.ids),
        "base_rows": _on_host(where.base_rows),
        "table_rows": _on_host(where.table_rows),
    }
    if not where.has_bags:
        return inputs, False
    bags = Bags((), (), ()) if where.bags is None else where.bags
    inputs["offsets"] = _no_offsets(inputs["ids"]) if where.offsets is None else where.offsets
    inputs["hotness"] = list(bags.hotness)
    inputs["mean"] = [pooling == "mean" for pooling in bags.pooling]
    inputs["variable"] = list(bags.variable)
    return inputs, True


def _no_offsets(ids):
    """Returns an empty int32 vector in the memory of ids [B, W]."""
    # A constant would be in host memory, and each call would copy it to a GPU. So is the result of
    # an int32 reshape.
    none = tf.cast(tf.gather(ids, tf.zeros([0], tf.int64)), tf.int64)
    return tf.cast(tf.reshape(none, [0]), tf.int32)


def _on_host(rows):
    # A constant of type int64 would be in the memory of the GPU that uses it, and each call would
    # copy it back.
    with tf.device("CPU:0"):
        return tf.convert_to_tensor(rows, tf.int64)


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
