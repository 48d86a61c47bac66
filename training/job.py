"""Builds what a job needs from the flags: data, placement, model, step; then runs it."""

import dataclasses
import pathlib
import sys

import tensorflow as tf

import dataset
from dataset import reader
from model.dlrm import DenseDLRM
from model.embedding import backend
from model.embedding.own import reads_own_tables
from model.embedding.placement import POLICIES, Placement, PlacementError, plan
from ops.library import LibraryNotBuiltError
from training import environment
from training.errors import UserError
from training.flags import DEMO_VOCAB_SIZES, vocab_sizes, widths
from training.journal import Journal, JsonLines, new_run_folder
from training.loop import Loop
from training.plan import OPTIMIZERS
from training.progress import make_progress
from training.schedule import LearningRateSchedule, scaled_reference_steps
from training.step import Forward, TrainStep
from training.summary import SummaryTable
from training.watchdog import Watchdog

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
        attainable_auc: what the data's generator stored, or None.
        facts: what identifies the data, for the journal.
    """

    vocab_sizes: list
    dense_features: int
    steps_per_epoch: int
    train: "object"
    test: "object | None"
    attainable_auc: "float | None"
    facts: dict


def run(flags, cluster):
    """Runs the job that the flags describe; returns the content of result.json.

    Raises:
        UserError: the flags, the data or the machine do not allow it.
        DivergedError: the loss became NaN or infinite.
    """
    try:
        return _run(flags, cluster)
    except (
        dataset.DatasetError,
        PlacementError,
        LibraryNotBuiltError,
        backend.BackendError,
    ) as error:
        raise UserError(str(error)) from error


def _run(flags, cluster):
    batch, size = flags.global_batch_size, cluster.size
    if batch % size:
        raise UserError(
            f"--global_batch_size={batch} is not divisible by the {size} ranks: the nearest that "
            f"are: {batch // size * size or size} and {(batch // size + 1) * size}"
        )
    sizes = _open(flags)
    chosen = backend.choose(flags.embedding_backend)
    placement = _placement(flags, cluster, sizes.vocab_sizes, chosen)
    # Where every table has files of its own, a rank reads its tables' ids for all samples.
    own_tables = list(placement.tables_of(cluster.rank))
    model_parallel_input = (
        size > 1
        and sizes.separate_tables
        and chosen.name == "own"
        and reads_own_tables(placement, flags.compress)
    )
    data = sizes.load(own_tables if model_parallel_input else None, cluster)

    compute = "mixed_bfloat16" if flags.amp else "float32"
    dense_model = DenseDLRM(
        dense_features=data.dense_features,
        tables=len(data.vocab_sizes),
        bottom_mlp=widths("bottom_mlp"),
        top_mlp=widths("top_mlp"),
        seed=flags.seed,
        custom_interact=flags.custom_interact,
        xla=flags.xla,
        interact=flags.ablation != "no_interaction",
        dtype=compute,
    )
    cluster.broadcast(dense_model.variables)
    embedding = backend.build(
        chosen,
        placement,
        cluster,
        batch // size,
        seed=flags.seed,
        exchange_dtype=tf.bfloat16 if flags.amp else tf.float32,
        gradient=flags.embedding_gradient,
        native=flags.embedding_kernels == "native",
        model_parallel_input=model_parallel_input,
        compress=flags.compress,
        optimizer=flags.embedding_optimizer,
    )
    step = TrainStep(
        dense_model,
        embedding,
        tf.keras.optimizers.SGD(learning_rate=flags.lr),
        cluster,
        update_embedding=flags.ablation != "frozen_embeddings",
        embedding_rate=1.0 if flags.embedding_lr is None else flags.embedding_lr / flags.lr,
        overlap=flags.overlap,
    )
    forward = Forward(dense_model, embedding)
    journal = _journal(flags, cluster)
    watchdog = Watchdog(cluster, flags.stall_timeout) if size > 1 else None
    loop = Loop(
        flags, cluster, data, step, forward, schedule(flags), journal, watchdog,
        early_stop=_early_stop(flags),
    )  # fmt: skip
    try:
        return loop.run()
    finally:
        journal.close()
        if watchdog is not None:
            watchdog.close()


def schedule(flags):
    """Returns the learning-rate schedule of the flags.

    Raises:
        UserError: the steps do not fit together.
    """
    warmup, start, decay = scaled_reference_steps(flags.global_batch_size)
    warmup = warmup if flags.warmup_steps is None else flags.warmup_steps
    start = start if flags.decay_start_step is None else flags.decay_start_step
    decay = decay if flags.decay_steps is None else flags.decay_steps
    try:
        return LearningRateSchedule(
            flags.lr, warmup, start or None, decay if start else 0, flags.end_lr
        )
    except ValueError as error:
        raise UserError(f"learning-rate schedule: {error}") from error


class _FileData:
    """A dataset folder, opened and checked but not read."""

    def __init__(self, flags):
        self._flags = flags
        layout = flags.data_layout
        if flags.use_splited_dataset:
            if layout not in ("auto", "per_table"):
                raise UserError(f"--use_splited_dataset contradicts --data_layout={layout}")
            layout = "per_table"
        self._train, self._test = dataset.open_dataset(flags.data_dir, layout=layout)
        self.vocab_sizes = list(self._train.vocab_sizes)
        columns = self._train.table_columns
        files = {segment.path for column in columns for segment in column.segments}
        self.separate_tables = len(columns) == len(self.vocab_sizes) and len(files) >= len(columns)

    def load(self, tables, cluster):
        flags, batch = self._flags, self._flags.global_batch_size
        steps = reader.steps(self._train.samples, batch, drop_remainder=True)
        if not steps:
            raise UserError(
                f"{flags.data_dir}/train has {self._train.samples} samples, fewer than one "
                f"global batch of {batch}: no step can be made; lower --global_batch_size"
            )
        options = {"tables": tables, "prefetch": flags.prefetch,
                   "parallel_reads": flags.parallel_reads}  # fmt: skip

        def train(epoch, start_step=0):
            return reader.batches(
                self._train, batch, cluster.rank, cluster.size, drop_remainder=True,
                start_step=start_step, shuffle_seed=flags.shuffle_seed, epoch=epoch, **options,
            )  # fmt: skip

        def test():
            return reader.batches(
                self._test, batch, cluster.rank, cluster.size, drop_remainder=False, **options
            )

        return Data(
            vocab_sizes=self.vocab_sizes,
            dense_features=self._train.dense_features,
            steps_per_epoch=steps,
            train=train,
            test=test,
            attainable_auc=self._test.attainable_auc,
            facts={
                "data_dir": str(pathlib.Path(flags.data_dir).resolve()),
                "layout": self._train.layout,
                "train_samples": self._train.samples,
                "test_samples": self._test.samples,
                "train_fingerprint": self._train.fingerprint,
                "test_fingerprint": self._test.fingerprint,
            },
        )


class _SyntheticData:
    """Random batches in memory."""

    separate_tables = True

    def __init__(self, flags):
        self._flags = flags
        if flags.data_dir is not None and flags.vocab_sizes is None:
            train = dataset.open_split(pathlib.Path(flags.data_dir) / "train")
            self.vocab_sizes = list(train.vocab_sizes)
        else:
            self.vocab_sizes = vocab_sizes(DEMO_VOCAB_SIZES)

    def load(self, tables, cluster):
        flags = self._flags
        steps = _early_stop(flags)

        def train(epoch, start_step=0):
            return reader.synthetic_batches(
                self.vocab_sizes, flags.global_batch_size, cluster.rank, cluster.size,
                steps - start_step, flags.seed, tables=tables,
            )  # fmt: skip

        return Data(
            vocab_sizes=self.vocab_sizes,
            dense_features=13,
            steps_per_epoch=steps,
            train=train,
            test=None,
            attainable_auc=None,
            facts={"layout": "synthetic", "vocab_sizes": self.vocab_sizes},
        )


def _open(flags):
    return _SyntheticData(flags) if flags.use_synthetic_dataset else _FileData(flags)


def _early_stop(flags):
    if flags.early_stop > 0:
        return flags.early_stop
    return SYNTHETIC_STEPS if flags.use_synthetic_dataset else None


def _placement(flags, cluster, vocab_sizes, chosen):
    per_column, per_row = OPTIMIZERS[flags.embedding_optimizer]
    limits = {
        "optimizer_bytes_per_row": per_column * flags.embedding_dim + per_row,
        "bytes_per_rank": _budget(flags, cluster),
    }
    if flags.placement not in POLICIES:
        return Placement.from_json(
            pathlib.Path(flags.placement), vocab_sizes=vocab_sizes, dimension=flags.embedding_dim,
            ranks=cluster.size, **limits,
        )  # fmt: skip
    return plan(
        vocab_sizes, flags.embedding_dim, cluster.size, policy=chosen.policy(flags.placement),
        replicate_below_rows=flags.replicate_below_rows,
        column_split="auto" if flags.column_split else False, **limits,
    )  # fmt: skip


def _budget(flags, cluster):
    if flags.memory_per_rank is not None:
        return environment.parse_bytes(flags.memory_per_rank, "memory_per_rank")
    return environment.memory_per_rank(cluster.local_rank, cluster.local_size)


def _journal(flags, cluster):
    if cluster.rank != 0:
        return Journal()
    try:
        folder = new_run_folder(flags.run_dir)
    except OSError as error:
        raise UserError(f"--run_dir={flags.run_dir}: {error.strerror}: {error.filename}") from error
    print(f"run folder: {folder}", file=sys.stdout, flush=True)
    progress = make_progress(flags.print_interval)
    return Journal([JsonLines(folder), progress, SummaryTable()])
