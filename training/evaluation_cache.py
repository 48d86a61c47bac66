"""Test batches kept in memory, so that evaluations after the first read no file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from training.runtime import memory

if TYPE_CHECKING:
    from training.data import Batch
    from training.runtime.process_group import ProcessGroup

# Of the memory that is free when the first evaluation begins, for all ranks of a machine together.
SHARE = 4


class CachedBatches:
    """The batches of `training.data.Data.test`; after the first whole pass, from memory.

    They are kept where one pass fits on every rank: its bytes, known from the batches' shapes and
    number, are at most a quarter of the machine's available memory divided by its ranks. Ranks
    agree on it when the first pass begins; a pass that is broken off keeps nothing.

    Args:
        batches: function () -> `tf.data.Dataset` of known length and shapes.
        cluster: the ranks (`training.runtime.process_group`).
        tell: function (text=...), called once where the batches do not fit.
        available: function () -> bytes that the machine has available.
    """

    def __init__(
        self,
        batches: Callable[[], Iterable[Batch]],
        cluster: ProcessGroup,
        tell: Callable[..., None],
        available: Callable[[], int] = memory.available,
    ) -> None:
        self._batches = batches
        self._cluster = cluster
        self._tell = tell
        self._available = available
        self._fits = None
        self._kept = None

    def __call__(self) -> Iterable[Batch]:
        """Returns an iterable of the batches of one pass; all ranks must ask for it together."""
        if self._kept is not None:
            return self._kept
        dataset = self._batches()
        if self._fits is None:
            self._fits = self._agree(dataset)
        return self._keeping(dataset) if self._fits else dataset

    def _agree(self, dataset: Any) -> bool:
        needed = _bytes_of(dataset)
        limit = self._available() // SHARE // self._cluster.local_size
        short = int(self._cluster.all_reduce_sum([float(needed > limit)])[0])
        if short:
            self._tell(
                text="test data is read anew in each evaluation: "
                f"{needed / 1e9:.2f} GB a rank do not fit into a quarter of the available memory "
                f"of {short} of {self._cluster.size} ranks ({limit / 1e9:.2f} GB on this one)"
            )
        return not short

    def _keeping(self, dataset: Any) -> Iterable[Batch]:
        kept = []
        for batch in dataset:
            kept.append(batch)
            yield batch
        self._kept = kept


def _bytes_of(dataset: Any) -> int:
    """Returns the bytes of all batches, all of them being of the dataset's static shapes."""
    specs = dataset.element_spec.values()
    return int(dataset.cardinality()) * sum(
        spec.shape.num_elements() * spec.dtype.size for spec in specs
    )
