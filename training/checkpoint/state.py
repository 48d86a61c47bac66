"""The state of a job that a checkpoint stores: dense variables, optimizer, loss scale, tables."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from model.embedding.interface import Embedding
from model.embedding.stored_rows import StoredRows
from training.runtime.process_group import ProcessGroup


@dataclasses.dataclass(frozen=True)
class Copies:
    """Values copied when a checkpoint begins.

    Attributes:
        named: {group: {name: array}}.
        shards: [(`StoredRows`, its values)].
    """

    named: dict[str, dict[str, np.ndarray]]
    shards: list[tuple[StoredRows, np.ndarray]]


class State:
    """The state of a job on one rank.

    Args:
        dense_model: a `model.dlrm.DenseDLRM`.
        optimizer: its `training.optimizers.DenseOptimizer`.
        scale: a `training.precision.LossScale`.
        embedding: the embedding backend.
        cluster: the ranks.

    Attributes:
        tables: the embedding's `StoredTables`.
        dynamic_scale: whether the job adapts its loss scale (`--loss_scale=dynamic`).
    """

    def __init__(
        self,
        dense_model: Any,
        optimizer: Any,
        scale: Any,
        embedding: Embedding,
        cluster: ProcessGroup,
    ):
        self.embedding = embedding
        self._cluster = cluster
        self._dense = {_name(v, i): v for i, v in enumerate(dense_model.variables)}
        self._optimizer = {_name(v, i): v for i, v in enumerate(optimizer.variables)}
        self._scale, self.dynamic_scale = scale.variables, scale.dynamic
        self.tables = embedding.stored_tables()

    @property
    def named(self) -> dict[str, dict[str, Any]]:
        """{group: {name: variable}} of the variables that are equal on all ranks."""
        return {"dense": self._dense, "optimizer": self._optimizer, "loss_scale": self._scale}

    def copies(self, rank: int) -> Copies:
        """Returns copies of the replicated values that this rank writes.

        Rank 0 writes the dense variables; rank t mod N the replicated table t.
        """
        named = {
            group: {name: variable.numpy() for name, variable in variables.items()}
            for group, variables in (self.named.items() if rank == 0 else ())
        }
        local = [s for s in self.tables.replicated if s.shard.table % self._cluster.size == rank]
        return Copies(named, [(stored, stored.read(0, stored.shape[0])) for stored in local])

    def bytes_of(self, rank: int) -> int:
        """Returns the number of bytes that a rank writes, without file headers."""
        named = 0
        if rank == 0:
            variables = [v for group in self.named.values() for v in group.values()]
            named = sum(int(np.prod(v.shape)) * v.dtype.size for v in variables)
        return named + sum(stored.bytes for stored in self.tables.all)

    def description(self) -> dict[str, Any]:
        """Returns the manifest's fields about the tables."""
        placement = self.embedding.placement
        return {
            "vocab_sizes": [int(rows) for rows in placement.vocab_sizes],
            "embedding_dim": placement.dimension,
        }


def _name(variable, index):
    """Returns a variable's name in a checkpoint: its index and its own name, e.g. "03.bias"."""
    own = "".join(c if c.isalnum() else "_" for c in variable.name.split(":")[0])
    return f"{index:02d}.{own}"
