"""Keeps test batches in memory, so that only the first evaluation reads files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from training.runtime import memory

if TYPE_CHECKING:
    from training.data import Batch
    from training.runtime.process_group import ProcessGroup

# All ranks of a machine together keep at most 1 / SHARE of its available memory.
SHARE = 4


class CachedBatches:
    """The batches of `training.data.Data.test`, from memory after the first complete pass.

    The batches are kept if they fit on every rank, that is if they take at most a quarter of the
    machine's available memory divided by its ranks. The ranks agree on this at the start of the
    first pass. An interrupted pass keeps nothing.

    Args:
        batches: function () -> `tf.data.Dataset` of known length and shapes.
        cluster: the ranks.
        report: function (text=...), called once if the batches do not fit.
        available: function () -> available bytes of the machine.
    """

    def __init__(
        self,
        batches: Callable[[], Iterable[Batch]],
        cluster: ProcessGroup,
        report: Callable[..., None],
        available: Callable[[], int] = memory.available,
    ) -> None:
        self._batches = batches
        self._cluster = cluster
        self._report = report
        self._available = available
        self._fits = None
        self._kept = None

    def __call__(self) -> Iterable[Batch]:
        """Returns an iterable over the batches of one pass; a collective call of all ranks."""
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
            self._report(
                text="each evaluation reads the test data from files: keeping it takes "
                f"{needed / 1e9:.2f} GB per rank, but {short} of {self._cluster.size} ranks have "
                f"less (limit on this rank: {limit / 1e9:.2f} GB)"
            )
        return not short

    def _keeping(self, dataset: Any) -> Iterable[Batch]:
        kept = []
        for batch in dataset:
            kept.append(batch)
            yield batch
        self._kept = kept


def _bytes_of(dataset: Any) -> int:
    """Returns the bytes of all batches, which have the static shapes of the dataset."""
    specs = dataset.element_spec.values()
    return int(dataset.cardinality()) * sum(
        spec.shape.num_elements() * spec.dtype.size for spec in specs
    )
