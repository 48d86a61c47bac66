"""The calls to SOK 1.x (`merlin-sok` 1.1 to 1.3): `sok.All2AllDenseEmbedding` over Horovod.

SOK 1.x has its own variables, of which TensorFlow sees the rows inside `sok.OptimizerScope`, and
its own NCCL communicator. It numbers GPUs by their local rank: one host only.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import ModuleType

import tensorflow as tf

from model.embedding.interface import Ranks
from model.embedding.placement import Placement
from model.embedding.sok_rows import RowWiseTables


def start_sok1(sok: ModuleType, cluster: Ranks, local_batch_size: int) -> None:
    """Initialises SOK; with Horovod if that is imported, else on one GPU.

    Args:
        sok: the module.
        cluster: the ranks.
        local_batch_size: b, the largest number of samples that one rank looks up at once.
    """
    hvd = sys.modules.get("horovod.tensorflow")
    if hvd is not None and not hvd.is_initialized():
        # SOK reads the rank from Horovod if the module is loaded.
        hvd.init()
    sok.Init(global_batch_size=local_batch_size * cluster.size)


class Sok1Rows(RowWiseTables):
    """Row-wise tables in one `All2AllDenseEmbedding`.

    Attributes:
        variables: [the layer's variable], float32 [rows of this rank, D].
    """

    def __init__(
        self, sok: ModuleType, placement: Placement, tables: Sequence[int], exchange_dtype: tf.DType
    ):
        super().__init__(placement, tables)
        self._sok = sok
        half = exchange_dtype == tf.float16
        self._layer = sok.All2AllDenseEmbedding(
            max_vocabulary_size_per_gpu=self.rows,
            embedding_vec_size=self.dimension,
            slot_num=len(tables),
            nnz_per_slot=1,
            dynamic_input=True,
            use_hashtable=False,
            key_dtype=tf.int64,
            dtype="mixed_float16" if half else "float32",
        )
        self.variables = [self._layer.embedding_variable]

    def embed(self, keys: tf.Tensor) -> tf.Tensor:
        """Returns the rows of keys that any rank may own: [n] -> [n, D]."""
        return self._layer(keys, training=True)

    def rows_visible(self) -> AbstractContextManager:
        """Returns a context in which the variable's handle is that of its rows."""
        return self._sok.OptimizerScope(self.variables)
