"""Random batches in memory for the peers.

Imports only NumPy, because programs run in several environments.
"""

from __future__ import annotations

import numpy as np

from benchmarks.training.task import DENSE_FEATURES, Task


def random_batches(
    task: Task, batch: int, count: int = 16
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns `count` batches: dense [B, 13], uniform ids int32 [B, W], label [B, 1].

    W is the sum of the task's `ids`: the ids of a table are adjacent.
    """
    random = np.random.default_rng([task.seed, batch])
    bounds = np.repeat(task.vocab_sizes, task.ids)
    return [
        (
            np.log1p(random.integers(0, 1024, (batch, DENSE_FEATURES))).astype(np.float32),
            random.integers(0, bounds, (batch, len(bounds)), dtype=np.int32),
            random.integers(0, 2, (batch, 1)).astype(np.float32),
        )
        for _ in range(count)
    ]
