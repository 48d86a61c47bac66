"""Builds what a job needs from the flags: data, placement, model, step; then runs it."""

import functools
import pathlib
import sys

import tensorflow as tf

import dataset
from model.dlrm import DenseDLRM
from model.embedding import backend
from model.embedding.own import reads_own_tables
from model.embedding.placement import POLICIES, Placement, PlacementError, plan
from model.embedding.shards import OPTIMIZER_STATE_BYTES
from ops.loader import LibraryNotBuiltError
from training import environment, precision, schedule
from training.data import early_stop, open_data
from training.errors import UserError
from training.evaluation import evaluate
from training.flags import widths
from training.journal import Journal, JsonLines, new_run_folder
from training.loop import Loop
from training.progress import make_progress
from training.requests import Requests
from training.step import Forward, TrainStep
from training.summary import SummaryTable
from training.watchdog import Watchdog

# Of the dense part. TensorFlow's Adagrad starts its sums at 0.1, PyTorch's and ours at 0.
_OPTIMIZERS = {
    "sgd": tf.keras.optimizers.SGD,
    "adagrad": lambda: tf.keras.optimizers.Adagrad(initial_accumulator_value=0.0, epsilon=1e-8),
    "adam": tf.keras.optimizers.Adam,
}


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
    sizes = open_data(flags)
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

    gpus = len(tf.config.list_physical_devices("GPU"))
    dtype = precision.compute_dtype(flags, gpus)
    scale = precision.loss_scale(flags, dtype)
    rates = schedule.from_flags(flags)
    dense_model = DenseDLRM(
        dense_features=data.dense_features,
        tables=len(data.vocab_sizes),
        bottom_mlp=widths("bottom_mlp"),
        top_mlp=widths("top_mlp"),
        seed=flags.seed,
        custom_interact=flags.custom_interact,
        xla=flags.xla,
        interact=flags.ablation != "no_interaction",
        dtype=f"mixed_{dtype.name}" if flags.amp else "float32",
    )
    cluster.broadcast(dense_model.variables)
    embedding = backend.build(
        chosen,
        placement,
        cluster,
        batch // size,
        seed=flags.seed,
        exchange_dtype=dtype,
        gradient=flags.embedding_gradient,
        native=flags.embedding_kernels == "native",
        model_parallel_input=model_parallel_input,
        compress=flags.compress,
        optimizer=flags.embedding_optimizer,
    )
    step = TrainStep(
        dense_model,
        embedding,
        _OPTIMIZERS[flags.optimizer](),
        cluster,
        scale,
        update_embedding=flags.ablation != "frozen_embeddings",
        embedding_rate=(
            1.0 if flags.embedding_lr is None else flags.embedding_lr / rates.base_rate
        ),
        overlap=flags.overlap,
    )
    journal = _journal(flags, cluster)
    watchdog = Watchdog(cluster, flags.stall_timeout) if size > 1 else None
    evaluation = None
    if data.test is not None:
        evaluation = functools.partial(evaluate, Forward(dense_model, embedding), data, cluster)
    loop = Loop(
        flags, cluster, data, step, evaluation, rates, scale, journal,
        Requests(None, cluster.rank), watchdog=watchdog, early_stop=early_stop(flags),
    )  # fmt: skip
    try:
        return loop.run()
    finally:
        journal.close()
        if watchdog is not None:
            watchdog.close()


def _placement(flags, cluster, vocab_sizes, chosen):
    per_column, per_row = OPTIMIZER_STATE_BYTES[flags.embedding_optimizer]
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
