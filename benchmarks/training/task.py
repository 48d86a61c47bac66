"""The task of the benchmark's programs: one DLRM in one precision.

Imports only the standard library, because programs run in several environments.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

DENSE_FEATURES = 13


@dataclasses.dataclass(frozen=True)
class Task:
    """One model in one precision.

    Attributes:
        vocab_sizes: rows of each of the T tables.
        dimension: D, elements per row.
        bottom_mlp: widths of the bottom MLP; the last is D.
        top_mlp: widths of the top MLP; the last is 1.
        precision: "fp32", or "bf16": dense arithmetic and activations in bfloat16, tables and
            master weights in float32.
        batches: global batch sizes, largest first.
        data_dir: dataset folder for programs that read files.
        learning_rate: learning rate of SGD, small enough to keep weights in their usual range.
        seed: seed of weights and random batches.
        hotness: ids per sample for each table, whose vectors are added; empty: one each.
        cross_layers: layers of a cross network, which replaces the pairs' products; 0: none.
        cross_rank: its rank.
    """

    vocab_sizes: tuple[int, ...]
    dimension: int = 128
    bottom_mlp: tuple[int, ...] = (512, 256, 128)
    top_mlp: tuple[int, ...] = (1024, 1024, 512, 256, 1)
    precision: str = "fp32"
    batches: tuple[int, ...] = (8192, 2048)
    data_dir: str = ""
    learning_rate: float = 0.01
    seed: int = 1
    hotness: tuple[int, ...] = ()
    cross_layers: int = 0
    cross_rank: int = 512

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids per sample for each table."""
        return self.hotness or (1,) * len(self.vocab_sizes)

    @property
    def interacted(self) -> int:
        """Inputs of the top MLP, without padding."""
        features = len(self.vocab_sizes) + 1
        if self.cross_layers:
            return features * self.dimension
        return self.dimension + features * (features - 1) // 2

    @property
    def table_bytes(self) -> int:
        """Bytes of all tables in float32."""
        return sum(self.vocab_sizes) * self.dimension * 4

    def write(self, path: str | os.PathLike) -> None:
        """Writes the task to a file."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(self), file)

    @classmethod
    def read(cls, path: str | os.PathLike) -> Task:
        """Returns the task that `write` wrote."""
        with open(path, encoding="utf-8") as file:
            values: dict[str, Any] = json.load(file)
        for name, value in values.items():
            values[name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)
