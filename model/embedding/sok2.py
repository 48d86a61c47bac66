"""The calls to SOK 2.x (`merlin-sok` 2.0 and 2.1).

Static variables: `sok.Variable` is an ordinary TensorFlow resource variable that holds one rank's
rows. Row-wise tables go through `sok.all2all_dense_embedding`, whose ids and vectors travel in one
`hvd.alltoall` each; whole tables through `sok.lookup_sparse`, which gathers all ids on all ranks.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import ModuleType, SimpleNamespace

import numpy as np
import tensorflow as tf

from model.embedding.interface import BackendError, Ranks
from model.embedding.placement import Placement
from model.embedding.sok_rows import RowWiseTables


def start_sok2(sok: ModuleType, cluster: Ranks) -> None:
    """Initialises SOK on the ranks of Horovod, once a process.

    Raises:
        BackendError: Horovod is missing or sees other ranks than `cluster`.
    """
    try:
        import horovod.tensorflow as hvd
    except ImportError as error:
        raise BackendError(
            f"SOK 2.x communicates through Horovod, which does not import: {error}"
        ) from (error)
    if not hvd.is_initialized():
        hvd.init()
    if hvd.size() != cluster.size:
        raise BackendError(f"Horovod sees {hvd.size()} ranks, this job has {cluster.size}")
    _restore_find_loader()
    try:
        # Left to its default it replaces tf.keras.optimizers by the legacy ones for everybody.
        sok.init(comm_tool="horovod", use_legacy_optimizer=False)
    except RuntimeError as error:
        if "more than once" not in str(error):
            raise


def _restore_find_loader() -> None:
    """Gives SOK's lookups `find_spec` for `importlib.find_loader`, which Python 3.12 removed."""
    lookup = sys.modules.get("sparse_operation_kit.lookup")
    if lookup is not None and not hasattr(importlib, "find_loader"):
        # SOK's module alone: nobody else sees another importlib.
        setattr(lookup, "importlib", SimpleNamespace(find_loader=importlib.util.find_spec))  # noqa: B010


class Sok2Rows(RowWiseTables):
    """Row-wise tables in one variable whose rows SOK partitions over the ranks.

    Attributes:
        variables: [the variable], float32 [rows of this rank, D].
    """

    def __init__(self, sok: ModuleType, placement: Placement, tables: Sequence[int]):
        super().__init__(placement, tables)
        self._sok = sok
        shape = (self.ranks * self.rows, self.dimension)
        self.variables = [_variable(sok, shape, "sok_rows")]

    def embed(self, keys: tf.Tensor) -> tf.Tensor:
        """Returns the rows of keys that any rank may own: [n] -> [n, D]."""
        lookup = tf.autograph.experimental.do_not_convert(self._sok.all2all_dense_embedding)
        return lookup(self.variables[0], keys)

    def rows_visible(self) -> AbstractContextManager:
        """Returns a context in which the variable's handle is that of its rows: always."""
        return contextlib.nullcontext()


class Sok2Tables:
    """Whole tables, one variable each, localized on the rank from the placement.

    Attributes:
        tables: indices of the tables.
        variables: one for each table; empty if another rank holds the table.
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

    def rows_visible(self) -> AbstractContextManager:
        """Returns a context in which the variables' handles are those of their rows: always."""
        return contextlib.nullcontext()


def _variable(sok: ModuleType, shape: tuple[int, int], name: str, **mode: str) -> tf.Variable:
    return sok.Variable(
        shape=shape,
        dtype=tf.float32,
        initializer=lambda shape, dtype: tf.zeros(shape, dtype),
        name=name,
        **mode,
    )
