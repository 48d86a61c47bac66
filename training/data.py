"""The batches of a job: from a dataset folder, or random ones in memory."""

import dataclasses
import pathlib

import dataset
from dataset import reader
from dataset.describe import DENSE_FEATURES
from dataset.stored_types import Declared
from ops.nvtx import ranges
from training import phases
from training.checkpoint.compatibility import SYNTHETIC
from training.flags import DEMO_VOCAB_SIZES, vocab_sizes
from training.runtime.errors import UserError

SYNTHETIC_STEPS = 30


@dataclasses.dataclass(frozen=True)
class Data:
    """The batches of a job.

    Attributes:
        vocab_sizes: rows of each table.
        dense_features: dense features per sample.
        steps_per_epoch: whole global batches in the training data.
        train: function (epoch, start_step) -> iterable of this rank's training batches.
        test: function () -> iterable of this rank's test batches, or None without test data.
        one_batch: function (samples) -> this rank's part of one batch of at most that many
            samples over all ranks: of the test data, or random ones without it.
        attainable_auc: what the data's generator stored, or None.
        facts: what identifies the data, for the journal.
    """

    vocab_sizes: list
    dense_features: int
    steps_per_epoch: int
    train: "object"
    test: "object | None"
    one_batch: "object"
    attainable_auc: "float | None"
    facts: dict


class _FileData:
    """A dataset folder, opened and checked but not read."""

    def __init__(self, flags):
        self._flags = flags
        layout = flags.data_layout
        if flags.use_splited_dataset:
            layout = "per_table"
        self._train, self._test = dataset.open_dataset(
            flags.data_dir,
            layout=layout,
            declared=Declared(applied_transform=flags.applied_transform),
        )
        self.vocab_sizes = list(self._train.vocab_sizes)
        columns = self._train.table_columns
        files = {segment.path for column in columns for segment in column.segments}
        self.separate_tables = len(columns) == len(self.vocab_sizes) and len(files) >= len(columns)

    def load(self, tables, cluster):
        flags, batch = self._flags, self._flags.global_batch_size
        steps = reader.steps(self._train.samples, batch, drop_remainder=True)
        if not steps and flags.mode == "train":
            raise UserError(
                f"{flags.data_dir}/train has {self._train.samples} samples, fewer than one "
                f"global batch of {batch}: no step can be made; lower --global_batch_size"
            )
        ahead = reader.ReadAhead(flags.prefetch, flags.parallel_reads)

        def train(epoch, start_step=0):
            return reader.batches(
                self._train, batch, cluster.rank, cluster.size, tables=tables,
                order=reader.EpochOrder(start_step, flags.shuffle_seed, epoch), ahead=ahead,
            )  # fmt: skip

        def test():
            return reader.batches(
                self._test, batch, cluster.rank, cluster.size, tables=tables,
                drop_remainder=False, ahead=ahead,
            )  # fmt: skip

        def one_batch(samples):
            samples = min(samples, self._test.samples) // cluster.size * cluster.size
            if not samples:
                raise UserError(
                    f"{flags.data_dir}/test has {self._test.samples} samples, fewer than the "
                    f"{cluster.size} ranks"
                )
            found = reader.batches(
                self._test, samples, cluster.rank, cluster.size, tables=tables,
                ahead=reader.ReadAhead(1, 1),
            )  # fmt: skip
            return next(iter(found))

        return Data(
            vocab_sizes=self.vocab_sizes,
            dense_features=self._train.dense_features,
            steps_per_epoch=steps,
            train=train,
            test=test,
            one_batch=one_batch,
            attainable_auc=self._test.attainable_auc,
            facts={
                "data_dir": str(pathlib.Path(flags.data_dir).resolve()),
                "layout": self._train.layout,
                "vocab_sizes": self.vocab_sizes,
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


class _SyntheticData:
    """Random batches in memory."""

    separate_tables = True

    def __init__(self, flags, dense_features):
        self._flags = flags
        self._dense_features = dense_features or DENSE_FEATURES
        if flags.data_dir is not None and flags.vocab_sizes is None:
            train = dataset.open_train(flags.data_dir, flags.data_layout)
            self.vocab_sizes = list(train.vocab_sizes)
            self._dense_features = train.dense_features
        else:
            self.vocab_sizes = vocab_sizes(DEMO_VOCAB_SIZES)

    def load(self, tables, cluster):
        flags = self._flags
        steps = early_stop(flags)

        def train(epoch, start_step=0):
            return reader.synthetic_batches(
                self.vocab_sizes, flags.global_batch_size, cluster.rank, cluster.size, steps,
                flags.seed, tables=tables, dense_features=self._dense_features,
            ).skip(start_step)  # fmt: skip

        def one_batch(samples):
            found = reader.synthetic_batches(
                self.vocab_sizes, samples, cluster.rank, cluster.size, 1, flags.seed,
                tables=tables, dense_features=self._dense_features,
            )  # fmt: skip
            return next(iter(found))

        return Data(
            vocab_sizes=self.vocab_sizes,
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
            },
        )


def open_data(flags, dense_features=None):
    """Opens and checks what the flags name; reads no batch.

    Args:
        flags: the parsed flags.
        dense_features: of random batches that no dataset describes; default: 13.

    Returns:
        An object with `vocab_sizes`, `separate_tables` (each table has files of its own) and
        `load(tables, cluster)`, which returns a `Data`: `tables` as for `dataset.reader.batches`.

    Raises:
        dataset.DatasetError: the folder is no dataset, or damaged.
        UserError: the flags contradict each other.
    """
    if flags.use_synthetic_dataset:
        return _SyntheticData(flags, dense_features)
    return _FileData(flags)


def early_stop(flags):
    """Returns the number of steps after which to stop, or None."""
    if flags.early_stop > 0:
        return flags.early_stop
    return SYNTHETIC_STEPS if flags.use_synthetic_dataset else None


def with_next(batches):
    """Yields (batch, the batch after it or None)."""
    iterator = iter(batches)
    batch = _read(iterator)
    while batch is not None:
        following = _read(iterator)
        yield batch, following
        batch = following


def _read(iterator):
    """Waits for the next batch, which another thread reads; returns it or None."""
    with ranges.span(phases.READ):
        return next(iterator, None)
