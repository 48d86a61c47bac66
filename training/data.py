"""Opens the batches of a job: from a dataset folder, or random ones in memory."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import dataset
from dataset import hotness, reader
from dataset.describe import DENSE_FEATURES
from dataset.expansion import expanded, maps_in_memory
from dataset.multihot_maps import MapRule
from dataset.stored_types import Declared
from ops.bags import Bags
from ops.nvtx import ranges
from training import phases
from training.checkpoint.compatibility import SYNTHETIC
from training.config import DataConfig, TrainingConfig
from training.runtime.errors import UserError
from training.sample_shape import SampleShape, made_hotness, of_dataset

if TYPE_CHECKING:
    import tensorflow as tf

    from training.runtime.process_group import ProcessGroup

    Batch = dict[str, tf.Tensor]

SYNTHETIC_STEPS = 30
# The vocabulary of the demo data (`dataset.synthetic`).
DEMO_VOCAB_SIZES = (
    "203931,18598,14092,7012,18977,4,6385,1245,49,186213,71328,67288,11,2168,7338,61,4,932,15,"
    "204515,141526,199433,60919,9137,71,34"
)


@dataclasses.dataclass(frozen=True)
class Data:
    """The batches of a job.

    Attributes:
        vocab_sizes: rows of each table.
        bags: the slots of each table's ids in a batch.
        dense_features: dense features per sample.
        steps_per_epoch: complete global batches in the training data.
        train: function (epoch, start_step) -> iterable of this rank's training batches.
        test: function () -> iterable of this rank's test batches, or None without test data.
        one_batch: function (samples) -> this rank's part of one batch with at most that many
            samples over all ranks, from the test data if there is any, else random.
        attainable_auc: the best possible AUC that the data's generator stored, or None.
        facts: description of the data for the journal.
    """

    vocab_sizes: list[int]
    bags: Bags
    dense_features: int
    steps_per_epoch: int
    train: Callable[..., Iterable[Batch]]
    test: Callable[[], Iterable[Batch]] | None
    one_batch: Callable[[int], Batch]
    attainable_auc: float | None
    facts: dict[str, Any]


class _FileData:
    """A dataset folder, opened and checked, but not read yet.

    `separate_tables`: whether each table's ids can be read without those of others.
    """

    def __init__(self, folder: str, data: DataConfig, global_batch_size: int) -> None:
        self._folder, self._config, self._batch_size = folder, data, global_batch_size
        self._train, self._test = dataset.open_dataset(
            folder,
            layout="per_table" if data.use_splited_dataset else data.data_layout,
            declared=Declared(applied_transform=data.applied_transform),
        )
        self.vocab_sizes = list(self._train.vocab_sizes)
        self.bags = hotness.of_both(self._train.bags, self._test.bags, folder)
        self._rule: MapRule | None = None
        if data.multi_hot is not None:
            self._rule = MapRule(tuple(self.vocab_sizes), made_hotness(data, self.bags))
            self.bags = self._rule.bags
        self.separate_tables = all(map(_is_separate, self._train.table_columns))

    def load(
        self, tables: Sequence[int] | None, cluster: ProcessGroup, host_bytes: int | None = None
    ) -> Data:
        """Returns the batches; see `dataset.reader.batches` for `tables`.

        `host_bytes` bounds the memory of the maps of --multi_hot.
        """
        config, batch = self._config, self._batch_size
        ahead = reader.ReadAhead(config.prefetch, config.parallel_reads)
        rule, stored = self._rule, None if self._rule else self.bags
        maps = None if rule is None else maps_in_memory(rule, tables, host_bytes)

        def read(*arguments: Any, ahead: reader.ReadAhead, **options: Any) -> tf.data.Dataset:
            batches = reader.batches(*arguments, tables=tables, bags=stored, ahead=ahead, **options)
            if maps is None:
                return batches
            return expanded(batches, maps, tables, ahead.parallel_reads, ahead.prefetch)

        def train(epoch: int, start_step: int = 0) -> Iterable[Batch]:
            order = reader.EpochOrder(start_step, config.shuffle_seed, epoch)
            return read(self._train, batch, cluster.rank, cluster.size, order=order, ahead=ahead)

        def test() -> Iterable[Batch]:
            return read(
                self._test, batch, cluster.rank, cluster.size, drop_remainder=False, ahead=ahead
            )

        def one_batch(samples: int) -> Batch:
            samples = min(samples, self._test.samples) // cluster.size * cluster.size
            if not samples:
                problem = f"expected at least {cluster.size} samples, found {self._test.samples}"
                raise UserError.of_path(f"{self._folder}/test", problem, bound=cluster.size)
            found = read(
                self._test, samples, cluster.rank, cluster.size, ahead=reader.ReadAhead(1, 1)
            )
            return next(iter(found))

        return Data(
            vocab_sizes=self.vocab_sizes,
            bags=self.bags,
            dense_features=self._train.dense_features,
            steps_per_epoch=reader.steps(self._train.samples, batch, drop_remainder=True),
            train=train,
            test=test,
            one_batch=one_batch,
            attainable_auc=self._test.attainable_auc,
            facts={
                "data_dir": str(pathlib.Path(self._folder).resolve()),
                "layout": self._train.layout,
                "vocab_sizes": self.vocab_sizes,
                **_facts_of(self.bags),
                "dense_features": self._train.dense_features,
                "dense_transform": self._train.dense_transform,
                "applied_transform": self._train.applied_transform,
                "effective_transform": self._train.effective_transform,
                "train_samples": self._train.samples,
                "test_samples": self._test.samples,
                "train_fingerprint": self._train.fingerprint,
                "test_fingerprint": self._test.fingerprint,
            },
        )


def _is_separate(column):
    """Returns whether a column holds one table, whose ids no other values interrupt."""
    size = np.dtype(column.dtype).itemsize
    return len(column.tables) == 1 and (
        bool(column.offsets) or column.stride == column.width * size
    )


class _SyntheticData:
    """Random batches in memory."""

    separate_tables = True

    def __init__(self, data: DataConfig, training: TrainingConfig, shape: SampleShape) -> None:
        self._training = training
        self._steps = step_limit(data, training) or SYNTHETIC_STEPS
        if data.data_dir is not None:
            sizes, self.bags, self._dense_features = of_dataset(data)
            self.vocab_sizes = list(sizes)
            return
        sizes = data.table_sizes(DEMO_VOCAB_SIZES)
        self.vocab_sizes = list(sizes)
        self._dense_features = shape.dense_features or DENSE_FEATURES
        self.bags = Bags.one_hot(len(sizes))
        if shape.bags is not None and shape.bags.features == len(sizes):
            self.bags = shape.bags
        if data.hotness is not None:
            self.bags = Bags.of(data.ids_per_sample("hotness", len(self.vocab_sizes)))

    def load(
        self, tables: Sequence[int] | None, cluster: ProcessGroup, host_bytes: int | None = None
    ) -> Data:
        """Returns the batches; uses no memory that `host_bytes` could bound."""
        steps, seed = self._steps, self._training.seed

        def train(epoch: int, start_step: int = 0) -> Iterable[Batch]:
            return reader.synthetic_batches(
                self.vocab_sizes, self._training.batch_size, cluster.rank, cluster.size, steps,
                seed, tables=tables, dense_features=self._dense_features, bags=self.bags,
            ).skip(start_step)  # fmt: skip

        def one_batch(samples: int) -> Batch:
            found = reader.synthetic_batches(
                self.vocab_sizes, samples, cluster.rank, cluster.size, 1, seed,
                tables=tables, dense_features=self._dense_features, bags=self.bags,
            )  # fmt: skip
            return next(iter(found))

        return Data(
            vocab_sizes=self.vocab_sizes,
            bags=self.bags,
            dense_features=self._dense_features,
            steps_per_epoch=steps,
            train=train,
            test=None,
            one_batch=one_batch,
            attainable_auc=None,
            facts={
                "layout": SYNTHETIC,
                "dense_features": self._dense_features,
                "dense_transform": "log(x+1)",
                "applied_transform": "none",
                "effective_transform": "log(x+1)",
                "vocab_sizes": self.vocab_sizes,
                **_facts_of(self.bags),
            },
        )


def _facts_of(bags):
    described = bags.description()
    return {} if described is None else {"bags": described}


def open_data(
    data: DataConfig, training: TrainingConfig, shape: SampleShape | None = None
) -> _FileData | _SyntheticData:
    """Opens and checks the data of a configuration; reads no batch.

    Args:
        data: which data to open.
        training: the global batch size, the number of steps and the seed of random batches.
        shape: of the samples of random batches, where neither flags nor a dataset give it.

    Raises:
        dataset.DatasetError: the folder is not a dataset, or is damaged.
    """
    if data.use_synthetic_dataset:
        return _SyntheticData(data, training, shape or SampleShape())
    if data.data_dir is None:
        raise ValueError("data_dir: expected a folder, found None")
    return _FileData(data.data_dir, data, training.batch_size)


def step_limit(data: DataConfig, training: TrainingConfig) -> int | None:
    """Returns the number of steps after which the run stops, or None for all epochs."""
    if training.early_stop > 0:
        return training.early_stop
    return SYNTHETIC_STEPS if data.use_synthetic_dataset else None


def with_next(batches: Iterable[Batch]) -> Iterator[tuple[Batch, Batch | None]]:
    """Yields (batch, the batch after it or None)."""
    iterator = iter(batches)
    batch = _read(iterator)
    while batch is not None:
        following = _read(iterator)
        yield batch, following
        batch = following


def _read(iterator: Iterator[Batch]) -> Batch | None:
    """Returns the next batch or None; waits for the thread that reads it."""
    with ranges.span(phases.READ):
        return next(iterator, None)
