"""The calls to SparseOperationKit (SOK) 2.x: initialisation, variables, lookups, gradients.

A static `sok.Variable` is an ordinary TensorFlow resource variable that holds one rank's rows.
Row-wise tables use `sok.all2all_dense_embedding`, whose ids and vectors travel in one
`hvd.alltoall` each; table-wise tables use `sok.lookup_sparse`, which gathers all ids on all ranks.

Shapes: b local batch, D embedding dimension, N ranks.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf

from model.embedding.interface import BackendError, Ranks
from model.embedding.placement import Placement


def start(sok: ModuleType, cluster: Ranks) -> None:
    """Initialises SOK on the ranks of Horovod, once per process; does nothing the second time.

    Raises:
        BackendError: Horovod is missing, or its ranks are not those of `cluster`.
    """
    try:
        import horovod.tensorflow as hvd
    except ImportError as error:
        raise BackendError(
            f"SOK communicates through Horovod, which cannot be imported: {error}"
        ) from error
    if not hvd.is_initialized():
        hvd.init()
    if hvd.size() != cluster.size:
        raise BackendError(
            f"SOK uses Horovod's ranks: expected {cluster.size}, found {hvd.size()}",
            found=hvd.size(),
        )
    _restore_find_loader()
    try:
        # By default SOK replaces tf.keras.optimizers by the legacy ones for the whole process.
        sok.init(comm_tool="horovod", use_legacy_optimizer=False)
    except RuntimeError as error:
        if "more than once" not in str(error):
            raise


def _restore_find_loader() -> None:
    """Gives SOK's lookups `find_spec` for `importlib.find_loader`, which Python 3.12 removed."""
    lookup = sys.modules.get("sparse_operation_kit.lookup")
    if lookup is not None and not hasattr(importlib, "find_loader"):
        # Only in SOK's module: all others keep the real importlib.
        setattr(lookup, "importlib", SimpleNamespace(find_loader=importlib.util.find_spec))  # noqa: B010


class RowWiseTables:
    """Row-wise tables in one variable whose rows SOK partitions over the ranks.

    Each table takes ceil(its rows / N) rows of the variable of every rank. The key
    N * first row + id then has the owner id mod N and the row first row + id div N, because SOK
    maps a key to owner = key mod N, row = key div N.

    Args:
        sok: the module `sparse_operation_kit`.
        placement: a placement.
        tables: indices of its row-wise tables, ascending.

    Attributes:
        tables: the same, as an array.
        variables: [the variable], float32 [rows of this rank, D].
    """

    def __init__(self, sok: ModuleType, placement: Placement, tables: Sequence[int]):
        self._sok = sok
        self.tables = np.array(tables)
        self._ranks = placement.ranks
        rows = [-(-placement.vocab_sizes[table] // self._ranks) for table in tables]
        ends = np.cumsum(rows, dtype=np.int64)
        self._first = ends - rows
        shape = (self._ranks * int(ends[-1]), placement.dimension)
        self.variables = [_variable(sok, shape, "sok_rows")]

    def keys(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the keys of all samples' ids: int64 [b, T] -> [b * tables]."""
        first_keys = tf.constant(self._ranks * self._first, tf.int64)
        return tf.reshape(tf.gather(ids, self.tables, axis=1) + first_keys, [-1])

    def embed(self, keys: tf.Tensor) -> tf.Tensor:
        """Returns the rows of keys, whichever rank owns them: [n] -> [n, D]."""
        lookup = tf.autograph.experimental.do_not_convert(self._sok.all2all_dense_embedding)
        return lookup(self.variables[0], keys)

    def place(self, table: int) -> tuple[int, int]:
        """Returns (index of the variable, its row) where this rank's part of a table starts."""
        return 0, int(self._first[np.flatnonzero(self.tables == table)[0]])


class TableWiseTables:
    """Table-wise tables: one variable each, localized on the rank from the placement.

    Args:
        sok: the module `sparse_operation_kit`.
        placement: a placement.
        tables: indices of its table-wise tables, ascending.

    Attributes:
        tables: the same, as an array.
        variables: one per table, float32 [rows, D]; no rows if another rank holds the table.
    """

    def __init__(self, sok: ModuleType, placement: Placement, tables: Sequence[int]):
        self._sok = sok
        self.tables = np.array(tables)
        self.variables = [
            _variable(
                sok,
                (placement.vocab_sizes[table], placement.dimension),
                f"sok_table_{table}",
                mode=f"localized:{placement.assignments[table].ranks[0]}",
            )
            for table in tables
        ]

    def keys(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the ids of these tables: int64 [b, T] -> [b, tables]."""
        return tf.gather(ids, self.tables, axis=1)

    def embed(self, keys: tf.Tensor) -> tf.Tensor:
        """Returns the rows of ids: [b, tables] -> [b, tables, D]."""
        splits = tf.range(tf.shape(keys, tf.int64)[0] + 1)
        columns = [
            # Not in the stubs of TensorFlow.
            tf.RaggedTensor.from_row_splits(  # pyright: ignore[reportAttributeAccessIssue]
                column, splits, validate=False
            )
            for column in tf.unstack(keys, axis=1)
        ]
        combiners = ["sum"] * len(columns)
        lookup = tf.autograph.experimental.do_not_convert(self._sok.lookup_sparse)
        found = lookup(self.variables, columns, combiners=combiners)
        return tf.stack(found, axis=1)

    def place(self, table: int) -> tuple[int, int]:
        """Returns (index of the variable, its row) where a table starts."""
        return int(np.flatnonzero(self.tables == table)[0]), 0


def _variable(sok: ModuleType, shape: tuple[int, int], name: str, **mode: str) -> tf.Variable:
    zeros = lambda shape, dtype: tf.zeros(shape, dtype)  # noqa: E731
    return sok.Variable(shape=shape, dtype=tf.float32, initializer=zeros, name=name, **mode)


class RecordedLookup:
    """One lookup with the gradient tape that recorded it.

    Args:
        part: `RowWiseTables` or `TableWiseTables`.
        ids: int64 [b, T].
        shape: [b, tables of the part, D].
        compress: look up each key once.
    """

    def __init__(
        self,
        part: RowWiseTables | TableWiseTables,
        ids: tf.Tensor,
        shape: Sequence[int],
        compress: bool,
    ):
        self._shape = shape
        keys = part.keys(ids)
        # For each of the b * tables keys, the index of its distinct key.
        self._distinct: tf.Tensor | None = None
        if compress:
            keys, self._distinct = tf.unique(keys)
        with tf.GradientTape() as tape:
            self._vectors = part.embed(keys)
        self._tape: Any = tape  # the stubs have no single output gradient

    def expand(self, dtype: tf.DType) -> tf.Tensor:
        """Returns the vectors of all samples, [b, tables, D]."""
        vectors = tf.cast(self._vectors, dtype)
        if self._distinct is not None:
            vectors = tf.gather(vectors, self._distinct)
        return tf.reshape(vectors, self._shape)

    def gradients(self, gradients: tf.Tensor, variables: Sequence[Any]) -> list[tf.IndexedSlices]:
        """Returns SOK's gradients of its variables from those of the vectors, [b, tables, D]."""
        flat = tf.cast(tf.reshape(gradients, [-1, self._shape[-1]]), tf.float32)
        if self._distinct is not None:
            count = tf.shape(self._vectors)[0]
            flat = tf.math.unsorted_segment_sum(flat, self._distinct, count)
        flat = tf.reshape(tf.cast(flat, self._vectors.dtype), tf.shape(self._vectors))
        return self._tape.gradient(self._vectors, variables, output_gradients=flat)
